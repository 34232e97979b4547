"""Runs of the agentic loop: recorded, followed by any number of clients, resumed."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lens_reasoner import Event, RunRecord, RunStore, Step
from lens_reasoner.atomic import write_atomically
from lens_reasoner.parts import LoopParts
from lens_sdk.client.parts import loop_of
from lens_sdk.server.admission import Admission
from lens_sdk.server.bodies import RunBody
from lens_sdk.server.errors import ApiError, api_error
from lens_sdk.server.idempotency import Answer, Idempotency
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.shared import EventLog, SharedWork
from lens_sdk.server.sse import frame
from lens_sdk.tracing import traced

ENDPOINT = "/v1/runs"
OUTCOME = "outcome.json"
Status = Literal["running", "finished", "cancelled", "failed", "interrupted"]

_NAME = re.compile(r"\d{8}T\d{6}(\.\d{6})?-[0-9a-f]{6}")
_log = logging.getLogger(__name__)


@dataclass
class LiveRun:
    """A run under way in this process.

    Attributes:
        name: Its folder's name.
        log: Its events, numbered like the lines of its record.
        task: Plays it.
        begun: Set when its record is there, or it failed before that.
        cancelled: Whether somebody asked to end it.
    """

    name: str
    log: EventLog = field(default_factory=EventLog)
    task: asyncio.Task[None] | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False


class RunService:
    """Plays runs in the background, whether or not anybody watches.

    A run's events are numbered from 1 in the order of its record, so that a client that lost its
    connection, or the server, goes on after the last number it knows. What a server that stops
    leaves unfinished is "interrupted" and can be resumed.
    """

    def __init__(
        self,
        store: RunStore,
        parts: LoopParts,
        *,
        admission: Admission,
        limits: ServerLimits,
        keys: Idempotency,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._parts = parts
        self._admission = admission
        self._limits = limits
        self._keys = keys
        self._metrics = metrics
        self._live: dict[str, LiveRun] = {}

    @property
    def running(self) -> int:
        """Runs under way."""
        return len(self._live)

    def create(self, body: RunBody, *, caller: str, key: str | None) -> SharedWork[Answer]:
        """Begin a run, or find the one that the same key began.

        The work is over when the run is on the disk; the run itself then goes on.

        Raises:
            ApiError: The request is refused.
        """
        fingerprint, place = body.fingerprint, (caller, ENDPOINT, key)

        def start() -> SharedWork[Answer]:
            request = body.image_request
            self._limits.check_run(request, body.limits)
            self._check_room(request.num_images)
            name = self._store.new().name
            folder = self._store.folder / name
            events = loop_of(self._parts, body.limits).stream(
                request, rubric=body.rubric, record=folder
            )

            async def work(_: EventLog) -> Answer:
                await self._begin(name, traced(events))
                answer = {"id": name}
                self._keys.keep(place, fingerprint, answer)
                return answer

            return SharedWork(work, patience=self._limits.retry_seconds)

        def replay(answer: Answer) -> SharedWork[Answer]:
            async def work(_: EventLog) -> Answer:
                return answer

            return SharedWork(work)

        shared, again = self._keys.once(place, fingerprint, start, replay)
        if again:
            self._metrics.replayed.inc()
        return shared

    async def resume(self, name: str) -> None:
        """Go on with a run that is not finished; one that is under way is left alone.

        Raises:
            ApiError: There is no such run, or no room for it.
            RunRecordError: It was begun with other parts than this server has.
        """
        record = self.record(name)
        if name in self._live or record.finished:
            return
        self._check_room(record.header.request.num_images)
        resumed = loop_of(self._parts).stream_resumed(record.folder)
        events = traced(resumed, known=len(record.lines) - 1)
        (record.folder / OUTCOME).unlink(missing_ok=True)
        await self._begin(name, events)

    async def cancel(self, name: str) -> None:
        """End a run; its pictures so far stay. One that is over stays as it is.

        Raises:
            ApiError: There is no such run.
        """
        live = self._live.get(name)
        if live is None:
            self.record(name)
            return
        live.cancelled = True
        assert live.task is not None
        live.task.cancel()
        await asyncio.gather(live.task, return_exceptions=True)

    async def close(self) -> None:
        """Interrupt what is under way; all of it is on the disk."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def record(self, name: str) -> RunRecord:
        """A run on the disk.

        Raises:
            ApiError: There is none of that name.
        """
        folder = self._store.folder / name
        if _NAME.fullmatch(name) is None or not (folder / "events.jsonl").is_file():
            raise ApiError(404, f"There is no run {name!r}.", code="run_not_found", param="id")
        return RunRecord(folder)

    def describe(self, name: str) -> dict[str, Any]:
        """A run in a few words."""
        record = self.record(name)
        outcome = _outcome(record.folder)
        created = datetime.fromisoformat(record.header.created)
        return {
            "id": name,
            "object": "run",
            "created_at": int(created.timestamp()),
            "status": self._status(name, record, outcome),
            "request": record.header.request.model_dump(mode="json"),
            "limits": record.header.limits.model_dump(mode="json"),
            "events": len(record.lines) - 1,
            "error": outcome.get("error"),
        }

    def newest(self, most: int) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        folders = [path for path in self._store.folders() if _NAME.fullmatch(path.name)]
        return [self.describe(path.name) for path in folders[::-1][:most]]

    async def frames(self, name: str, after: int) -> AsyncIterator[str]:
        """A run's events after a number: what was recorded, then what happens.

        The stream ends with the run, or when the server shuts down; where the run has not finished,
        a last event "ended" tells its status.
        """
        live = self._live.get(name)
        if live is None:
            for entry in await asyncio.to_thread(_recorded, self.record(name), after):
                yield f"id: {entry[0]}\nevent: {entry[1]}\ndata: {entry[2]}\n\n"
        else:
            async for told in live.log.follow(after):
                if self._admission.draining:
                    break
                yield frame(told)
        described = self.describe(name)
        if described["status"] != "finished":
            data = {"status": described["status"], "error": described["error"]}
            yield f"event: ended\ndata: {json.dumps(data)}\n\n"

    def wake(self) -> None:
        """Let those who follow runs see that the server is shutting down."""
        for live in self._live.values():
            live.log.pass_on("shutdown", "shutdown", "{}")

    def _status(self, name: str, record: RunRecord, outcome: dict[str, Any]) -> Status:
        if name in self._live:
            return "running"
        if record.finished:
            return "finished"
        told: Status = outcome.get("status", "interrupted")
        return told

    def _check_room(self, images: int) -> None:
        try:
            self._admission.check(images)
            if len(self._live) >= self._limits.runs:
                raise ApiError(
                    429,
                    f"{len(self._live)} runs are under way, which is the most.",
                    kind="rate_limit_error",
                    code="rate_limit_exceeded",
                    retry_after=15,
                )
        except ApiError as error:
            if error.status == 429:
                self._metrics.refused.inc()
            raise

    async def _begin(self, name: str, events: AsyncGenerator[Event]) -> None:
        """Play a run in the background; returns when its record is there."""
        if name in self._live:
            return
        live = LiveRun(name)
        self._live[name] = live
        live.task = asyncio.create_task(self._play(live, events))
        live.task.add_done_callback(lambda _: self._live.pop(name, None))
        begun = asyncio.create_task(live.begun.wait())
        await asyncio.wait({begun, live.task}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if live.task.done() and not live.task.cancelled() and not live.begun.is_set():
            error = live.task.exception()
            if error is not None:
                raise error

    async def _play(self, live: LiveRun, events: AsyncGenerator[Event]) -> None:
        folder = self._store.folder / live.name
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
                told = json.dumps({"status": status, "error": error}).encode()
                write_atomically(folder / OUTCOME, told)
            self._metrics.runs.labels(status).inc()
            self._live.pop(live.name, None)
            live.log.close()

    def _tell(self, live: LiveRun, event: Event) -> None:
        if isinstance(event, Step):
            live.log.pass_on(event.index, event.type, event.model_dump_json())
        else:
            live.log.keep(event.type, event.model_dump_json())
        live.begun.set()


def _recorded(record: RunRecord, after: int) -> list[tuple[int, str, str]]:
    numbered = list(enumerate(record.events, start=1))[after:]
    return [(number, event.type, event.model_dump_json()) for number, event in numbered]


def _outcome(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / OUTCOME).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
