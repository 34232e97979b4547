"""Several servers behind one address on Ray Serve: one process per GPU, or sharing the CPU."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_sdk.errors import SdkError
from lens_sdk.generators import load_generator
from lens_sdk.server.app import create_app
from lens_sdk.server.claims import POLL_SECONDS
from lens_sdk.server.config import ServerConfig, check_address
from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.metrics import PUBLISH_SECONDS
from lens_sdk.server.serve import GRACE

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lens_sdk.server.services import Services

NAME = "lens"
REPLICA_HEADER = "x-lens-replica"
"""Answer header that names the replica."""

STOPPING = "stopping"
"""File in the server's folder that tells all replicas that the server is stopping."""

_OBJECT_STORE = 256 << 20
_MOST_REQUESTS = 1000
"""Maximum number of concurrent requests per replica. This includes clients that only follow a run;
each replica limits its waiting work itself."""


class ReplicasError(SdkError):
    """The requested replicas cannot be started."""


@dataclass(frozen=True)
class RayChoices:
    """How many replicas to run, and where.

    Attributes:
        replicas: Number of replicas.
        gpus_per_replica: GPUs per replica, which may be a fraction; None distributes all GPUs.
        address: Address of the Ray cluster to use; None starts a local one and stops it at the end.
        grace: Seconds that requests in progress have to finish when the server stops.
    """

    replicas: int = 1
    gpus_per_replica: float | None = None
    address: str | None = None
    grace: float = GRACE


class Replica:
    """The application as one of several replicas: answers name the replica, and all stop together.

    Args:
        app: The application.
        name: Name of the replica.
        stopping: File in the server's folder that exists while the server stops.
    """

    def __init__(self, app: FastAPI, name: str, stopping: Path) -> None:
        self._app: ASGIApp = app
        self._services: Services = app.state.services
        self._services.metrics.share(stopping.parent / "live" / "metrics", name)
        self._name = name.encode()
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or the application's lifespan."""
        if scope["type"] == "lifespan":
            besides = [asyncio.ensure_future(work()) for work in (self._watch, self._publish)]
            try:
                await self._app(scope, receive, send)
            finally:
                for work in besides:
                    work.cancel()
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (REPLICA_HEADER.encode(), self._name)
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self._app(scope, receive, tell)

    async def _watch(self) -> None:
        while not self._stopping.exists():
            await asyncio.sleep(POLL_SECONDS)
        self._services.drain()

    async def _publish(self) -> None:
        while True:
            await asyncio.to_thread(self._services.metrics.publish)
            await asyncio.sleep(PUBLISH_SECONDS)


@contextmanager
def replicas_running(
    configure: Callable[[], ServerConfig],
    folder: Path,
    *,
    host: str,
    port: int,
    keys: ApiKeys,
    choices: RayChoices,
) -> Iterator[int]:
    """Run replicas that serve inside the context.

    Each replica builds its own server and loads its model before it receives requests. Replicas
    share the folder, so images, runs and answers of one are available from all.

    Args:
        configure: Builds a replica's configuration in its process; must be picklable.
        folder: The configuration's folder.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        keys: The configuration's keys.
        choices: How many replicas to run, and where.

    Yields:
        The port.

    Raises:
        UnsafeAddressError: Others could reach the server, and there are no keys.
        ReplicasError: There are not enough GPUs, or a replica does not start.
        ModuleNotFoundError: Ray Serve is not installed.
    """
    check_address(host, keys)
    _prepare_environment(choices)
    import ray
    from ray import serve

    port = port or _free_port(host)
    stopping = folder.absolute() / STOPPING
    stopping.unlink(missing_ok=True)
    _join(ray, choices)
    try:
        gpus = gpus_each(ray, choices)
        serve.start(http_options={"host": host, "port": port})
        _deploy(_builder(configure, stopping), choices, gpus=gpus)
        yield port
    finally:
        stopping.parent.mkdir(parents=True, exist_ok=True)
        stopping.touch()
        with suppress(Exception):
            # Requests in progress end first; shutting Serve down would cut them off.
            serve.delete(NAME)
            serve.shutdown()
        if choices.address is None:
            ray.shutdown()
        stopping.unlink(missing_ok=True)


def _deploy(build: Callable[[], Any], choices: RayChoices, *, gpus: float) -> None:
    """Start replicas of an application; returns once all of them respond.

    Raises:
        ReplicasError: A replica does not start.
    """
    from ray import serve

    deployment = serve.deployment(serve.ingress(build)()).options(
        name=NAME,
        num_replicas=choices.replicas,
        # Replicas may share CPU cores; only GPUs must not be assigned twice.
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        max_ongoing_requests=_MOST_REQUESTS,
        graceful_shutdown_timeout_s=choices.grace,
    )
    try:
        serve.run(deployment.bind(), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ReplicasError(
            f"The replicas did not start: {error}",
            hint="lens serve without --ray shows more about what is wrong with the model.",
        ) from error


def serve_on_ray(
    configure: Callable[[], ServerConfig],
    folder: Path,
    *,
    host: str,
    port: int,
    keys: ApiKeys,
    choices: RayChoices,
    tell: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until the process is asked to stop.

    Args:
        configure: See `replicas_running`.
        folder: See `replicas_running`.
        host: See `replicas_running`.
        port: See `replicas_running`.
        keys: See `replicas_running`.
        choices: See `replicas_running`.
        tell: Called with the port when the replicas are ready.

    Raises:
        UnsafeAddressError: See `replicas_running`, also for its other errors.
    """
    with replicas_running(
        configure, folder, host=host, port=port, keys=keys, choices=choices
    ) as used:
        told_to_stop = threading.Event()
        # Set the handlers only now, since Ray sets its own while it starts.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: told_to_stop.set())
        tell(used)
        told_to_stop.wait()


def _builder(configure: Callable[[], ServerConfig], stopping: Path) -> Callable[[], Replica]:
    def build() -> Replica:
        from ray import serve

        config = configure()
        load_generator(config.parts.generator)
        name = serve.get_replica_context().replica_id.unique_id
        return Replica(create_app(config), name, stopping)

    return build


def _prepare_environment(choices: RayChoices) -> None:
    """Set the environment variables that Ray reads when it is imported and when it starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if choices.address is None:
        # Ray's ports accept commands from any machine that has the token.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _join(ray: Any, choices: RayChoices) -> None:
    own: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
        "logging_level": "WARNING",
        "_node_ip_address": "127.0.0.1",
    }
    there = own if choices.address is None else {"address": choices.address}
    try:
        ray.init(log_to_driver=False, **there)
    except Exception as error:
        ray.shutdown()
        said = str(error).strip().splitlines()[0]
        if choices.address is None:
            raise ReplicasError(
                f"Ray did not start: {said}",
                hint="Its logs say more: session_latest/logs in Ray's folder for temporary files.",
            ) from error
        raise ReplicasError(
            f"Ray did not answer at {choices.address}: {said}",
            hint="Check that the cluster is up (ray status) and that the address is right.",
        ) from error


def gpus_each(ray: Any, choices: RayChoices) -> float:
    """GPUs per replica.

    Args:
        ray: The Ray module, connected to the cluster.
        choices: The requested replicas and GPUs.

    Raises:
        ReplicasError: There are not enough GPUs.
    """
    there = ray.cluster_resources().get("GPU", 0.0)
    if choices.gpus_per_replica is None:
        if not there:
            return 0.0
        return 1.0 if there >= choices.replicas else 1.0 / -(-choices.replicas // int(there))
    needed = choices.gpus_per_replica * choices.replicas
    if needed > there:
        raise ReplicasError(
            f"{choices.replicas} replicas with {choices.gpus_per_replica:g} GPUs each need "
            f"{needed:g}, and there are {there:g}.",
            hint="Ask for fewer --replicas or a smaller share in --gpus-per-replica.",
        )
    return choices.gpus_per_replica


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((host, 0))
        port: int = free.getsockname()[1]
        return port
