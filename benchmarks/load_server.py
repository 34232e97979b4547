"""`lens serve` in a separate process, to load, monitor and kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

READY_SECONDS = 600.0


@dataclass
class Server:
    """A server under test, started by this process or another.

    Attributes:
        url: Its address.
        folder: Folder of its state.
        pid: Its process ID.
        client: HTTP client for its metrics.
    """

    url: str
    folder: Path
    pid: int
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60), repr=False)

    def metric(self, name: str) -> float:
        """Return one value from `/metrics`; 0 if it has never been counted."""
        for line in self.client.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return 0.0

    @property
    def resident_mib(self) -> float:
        """Return the resident memory of the process in MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time it has used, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def state(self) -> dict[str, tuple[int, float]]:
        """Return the number of files and MiB of each folder of its state."""
        found: dict[str, tuple[int, float]] = {}
        for folder in ("answers", "files", "runs"):
            sizes = [p.stat().st_size for p in (self.folder / folder).rglob("*") if p.is_file()]
            found[folder] = len(sizes), sum(sizes) / 2**20
        return found


@dataclass
class OwnServer(Server):
    """A server that this process starts, kills and restarts at the same address."""

    max_waiting: int = 64
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def started(cls, folder: Path, *, max_waiting: int = 64) -> OwnServer:
        """Start one on a free port and wait until its model is loaded."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = cls(f"http://127.0.0.1:{port}", folder, 0, max_waiting=max_waiting)
        server.start()
        return server

    def start(self) -> None:
        """Start it with the existing state in its folder."""
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "lens_sdk", "serve", "--model", "lens-nano"]
        command += ["--reasoner", "none", "--judge", "none", "--port", port]
        command += ["--folder", str(self.folder), "--max-waiting", str(self.max_waiting)]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pid = self.process.pid
        end = time.monotonic() + READY_SECONDS
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                log_text = (self.folder / "server.log").read_text(encoding="utf-8")
                raise RuntimeError(f"lens serve does not get ready: {log_text[-2000:]}")
            time.sleep(0.5)

    def kill(self) -> None:
        """Send SIGKILL, which leaves no time to finish or clean up."""
        assert self.process is not None
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def _ready(self) -> bool:
        try:
            return self.client.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False
