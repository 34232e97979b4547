"""Executes runs in the background, each in one of the processes that share a folder."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lens_reasoner import Event, Step
from lens_reasoner.atomic import write_atomically
from lens_sdk.server.claims import POLL_SECONDS, Claim, Claims
from lens_sdk.server.errors import ApiError, api_error
from lens_sdk.server.following import OUTCOME
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.shared import EventLog

Status = Literal["running", "finished", "cancelled", "failed", "interrupted"]

_END = "end"
_LONGEST_END = 30.0
_log = logging.getLogger(__name__)


@dataclass
class LiveRun:
    """A run in progress in this process.

    Attributes:
        name: Name of the run's folder.
        claim: The exclusive right to execute the run.
        log: The run's events, numbered like the lines of its record.
        task: Executes the run.
        begun: Set once the record exists, or the run failed before that.
        cancelled: Whether the run was asked to end.
    """

    name: str
    claim: Claim
    log: EventLog = field(default_factory=EventLog)
    task: asyncio.Task[None] | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False


class RunPlayer:
    """Executes runs, whether or not a client follows them.

    The process that holds the claim on a run's name executes it. Others end it by leaving a mark.

    Args:
        folder: Folder of the runs.
        claims: Which process executes which run.
        metrics: Counts how runs end.
    """

    def __init__(self, folder: Path, claims: Claims, metrics: Metrics) -> None:
        self._folder = folder
        self._claims = claims
        self._metrics = metrics
        self._live: dict[str, LiveRun] = {}

    @property
    def running(self) -> int:
        """Number of runs in progress in this process."""
        return len(self._live)

    def live(self, name: str) -> LiveRun | None:
        """The run if it is in progress in this process, else None."""
        return self._live.get(name)

    def elsewhere(self, name: str) -> bool:
        """Whether another process executes the run."""
        return name not in self._live and self._claims.taken(name)

    async def claim(self, name: str) -> Claim | None:
        """Claim the right to execute a run; None if it is already in progress."""
        return None if name in self._live else await self._claims.take_soon(name)

    async def begin(self, name: str, claim: Claim, events: AsyncGenerator[Event]) -> None:
        """Execute a run in the background; returns once its record exists."""
        self._claims.unmark(name, _END)
        live = LiveRun(name, claim)
        self._live[name] = live
        live.task = asyncio.create_task(self._play(live, events))
        heeding = asyncio.create_task(self._heed(live))

        def over(_: object) -> None:
            heeding.cancel()
            self._live.pop(name, None)
            claim.let_go()

        live.task.add_done_callback(over)
        begun = asyncio.create_task(live.begun.wait())
        await asyncio.wait({begun, live.task}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if live.task.done() and not live.task.cancelled() and not live.begun.is_set():
            error = live.task.exception()
            if error is not None:
                raise error

    async def end(self, name: str) -> None:
        """End a run, here or in another process; do nothing if it is not in progress.

        Raises:
            ApiError: The process that executes it does not respond.
        """
        live = self._live.get(name)
        if live is None:
            await self._have_ended(name)
            return
        live.cancelled = True
        assert live.task is not None
        live.task.cancel()
        await asyncio.gather(live.task, return_exceptions=True)

    async def _have_ended(self, name: str) -> None:
        try:
            async with asyncio.timeout(_LONGEST_END):
                while self._claims.taken(name):
                    self._claims.mark(name, _END)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ApiError(
                503,
                f"The run {name!r} is running in a process that does not answer.",
                kind="server_error",
                code="run_not_ended",
                retry_after=10,
            ) from None
        self._claims.unmark(name, _END)

    async def close(self) -> None:
        """Interrupt the runs in progress; everything is already on disk."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Notify the followers of runs that the server is shutting down."""
        for live in self._live.values():
            live.log.pass_on("shutdown", "shutdown", "{}")

    async def _heed(self, live: LiveRun) -> None:
        """End the run once another process leaves a mark that asks for it."""
        while not self._claims.marked(live.name, _END):
            await asyncio.sleep(POLL_SECONDS)
        await self.end(live.name)

    async def _play(self, live: LiveRun, events: AsyncGenerator[Event]) -> None:
        folder = self._folder / live.name
        status: Status = "interrupted"
        error: dict[str, Any] | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    self._tell(live, event)
            status = "finished"
        except asyncio.CancelledError:
            status = "cancelled" if live.cancelled else "interrupted"
            raise
        except Exception as failure:
            if not live.begun.is_set():
                raise
            status, error = "failed", api_error(failure).body["error"]
            _log.warning("run %s failed", live.name, exc_info=failure)
        finally:
            if status in {"cancelled", "failed"} and folder.is_dir():
                _write_down(folder, status, error)
            self._metrics.runs.labels(status).inc()
            self._live.pop(live.name, None)
            live.claim.let_go()
            live.log.close()

    def _tell(self, live: LiveRun, event: Event) -> None:
        if isinstance(event, Step):
            live.log.pass_on(event.index, event.type, event.model_dump_json())
        else:
            live.log.keep(event.type, event.model_dump_json())
        live.begun.set()


def _write_down(folder: Path, status: Status, error: dict[str, Any] | None) -> None:
    """Record in a run's folder how it ended; a run without this counts as interrupted."""
    try:
        write_atomically(folder / OUTCOME, json.dumps({"status": status, "error": error}).encode())
    except OSError:
        _log.exception("how run %s ended cannot be written down", folder.name)
