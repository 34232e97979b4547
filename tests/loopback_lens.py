"""The packaged model behind a real server on loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from lens_sdk.models import resolve_model
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.config import ServerConfig, serving_parts
from lens_sdk.server.drawing import BatchingLensGenerator
from lens_sdk.server.serve import GracefulServer, make_server
from lens_sdk.server.services import Services

QUICK = {"size": "64x64", "extra_body": {"num_inference_steps": 3}}
"""Settings of OpenAI's client for a picture in a moment."""

SMALL = {"width": 64, "height": 64, "num_inference_steps": 3}
"""The same for a request of our own."""


@pytest.fixture(scope="session")
def runtime() -> LensRuntime:
    torch.set_num_threads(1)
    runtime = LensRuntime(resolve_model())
    runtime.load()
    return runtime


@dataclass
class Running:
    """A server in a thread."""

    url: str
    server: GracefulServer
    services: Services
    thread: threading.Thread

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def generator(self) -> BatchingLensGenerator:
        generator = self.services.config.parts.generator
        assert isinstance(generator, BatchingLensGenerator)
        return generator

    def metric(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


def start_server(
    runtime: LensRuntime, folder: Path, *, alone: bool = False, port: int = 0, **options: Any
) -> Running:
    """Start a server; one that is `alone` has a generator but nobody who rewrites or judges."""
    part = "none" if alone else "auto"
    parts = serving_parts(BatchingLensGenerator(runtime), reasoner=part, judge=part)
    return serving(ServerConfig(parts, folder=folder, **options), port)


def serving(config: ServerConfig, port: int = 0) -> Running:
    """Start a server and wait until its model is loaded."""
    server = make_server(config, host="127.0.0.1", port=port, grace=10, log_level="warning")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    while httpx.get(f"{url}/readyz").status_code != 200:
        time.sleep(0.01)
    return Running(url, server, server.config.app.state.services, thread)  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def running(runtime: LensRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for tests that leave it as it was."""
    server = start_server(runtime, tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def start(runtime: LensRuntime, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of a test's own that only draw, by default in its folder."""
    started: list[Running] = []

    def begin(folder: Path = tmp_path / "server", **options: Any) -> Running:
        started.append(start_server(runtime, folder, alone=True, **options))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
