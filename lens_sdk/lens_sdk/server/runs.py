"""Runs of the agent loop: recorded, resumable, and followed by any number of clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any

from lens_reasoner import RunRecord, RunStore
from lens_reasoner.parts import LoopParts
from lens_sdk.client.parts import loop_of
from lens_sdk.server.admission import Admission, busy
from lens_sdk.server.bodies import RunBody
from lens_sdk.server.claims import Claims
from lens_sdk.server.errors import ApiError
from lens_sdk.server.following import OUTCOME, follow_record, outcome
from lens_sdk.server.idempotency import Answer, Idempotency
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.playing import RunPlayer, Status
from lens_sdk.server.shared import EventLog, SharedWork
from lens_sdk.server.sse import frame
from lens_sdk.tracing import traced

ENDPOINT = "/v1/runs"

_NAME = re.compile(r"\d{8}T\d{6}(\.\d{6})?-[0-9a-f]{6}")


class RunService:
    """Executes runs in the background, whether or not a client follows them.

    A run's events are numbered from 1 in the order of its record. After a lost connection or a
    restart of the server, a client can therefore continue from the last number it received. Runs
    that a stopping server leaves unfinished become "interrupted" and can be resumed.

    Several processes can share the folder. One process executes a run, but all of them serve
    requests for it: the others follow its record, which has no step progress, and cancel it by
    leaving a mark.
    """

    def __init__(
        self,
        store: RunStore,
        parts: LoopParts,
        *,
        claims: Claims,
        admission: Admission,
        limits: ServerLimits,
        keys: Idempotency,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._parts = parts
        self._player = RunPlayer(store.folder, claims, metrics)
        self._admission = admission
        self._limits = limits
        self._keys = keys
        self._metrics = metrics

    @property
    def running(self) -> int:
        """Number of runs in progress in this process."""
        return self._player.running

    def create(self, body: RunBody, *, caller: str, key: str | None) -> SharedWork[Answer]:
        """Start a run, or find the one that was started with the same key.

        The work is done once the run is recorded on disk; the run itself then continues.

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
                claim = await self._player.claim(name)
                assert claim is not None, "nobody else knows the name"
                await self._player.begin(name, claim, traced(events))
                answer = {"id": name}
                self._keys.keep(place, fingerprint, answer)
                return answer

            wanted = partial(self._keys.wanted, place)
            return SharedWork(work, patience=self._limits.retry_seconds, wanted=wanted)

        def replay(answer: Answer) -> SharedWork[Answer]:
            async def work(_: EventLog) -> Answer:
                return answer

            return SharedWork(work)

        shared, again = self._keys.once(place, fingerprint, start, replay)
        if again:
            self._metrics.replayed.inc()
        return shared

    async def resume(self, name: str) -> None:
        """Resume a run that is unfinished or ended because its judge was unavailable.

        A run in progress is left alone.

        Raises:
            ApiError: The run does not exist, or too much work is waiting.
            RunRecordError: The run was started with other parts than this server has.
        """
        record = self.record(name)
        if self._player.live(name):
            return
        if record.finished and not (await asyncio.to_thread(record.state)).unasked:
            return
        self._check_room(record.header.request.num_images)
        claim = await self._player.claim(name)
        if claim is None:
            return
        try:
            resumed = loop_of(self._parts).stream_resumed(record.folder)
            (record.folder / OUTCOME).unlink(missing_ok=True)
        except BaseException:
            claim.let_go()
            raise
        await self._player.begin(name, claim, traced(resumed, known=len(record.lines) - 1))

    async def cancel(self, name: str) -> None:
        """End a run and keep the images generated so far; a run that has ended stays unchanged.

        Raises:
            ApiError: The run does not exist, or the process that executes it does not respond.
        """
        if self._player.live(name) is None:
            self.record(name)
        await self._player.end(name)

    async def close(self) -> None:
        """Interrupt the runs in progress; everything is already on disk."""
        await self._player.close()

    def wake(self) -> None:
        """Notify the followers of runs that the server is shutting down."""
        self._player.wake()

    def record(self, name: str) -> RunRecord:
        """Read a run from disk.

        Raises:
            ApiError: No run has that name.
        """
        folder = self._store.folder / name
        if _NAME.fullmatch(name) is None or not (folder / "events.jsonl").is_file():
            raise ApiError(404, f"There is no run {name!r}.", code="run_not_found", param="id")
        return RunRecord(folder)

    def describe(self, name: str) -> dict[str, Any]:
        """Summary of a run."""
        record = self.record(name)
        ended = outcome(record.folder)
        created = datetime.fromisoformat(record.header.created)
        return {
            "id": name,
            "object": "run",
            "created_at": int(created.timestamp()),
            "status": self._status(name, record, ended),
            "request": record.header.request.model_dump(mode="json"),
            "limits": record.header.limits.model_dump(mode="json"),
            "events": len(record.lines) - 1,
            "error": ended.get("error"),
        }

    def newest(self, most: int) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        folders = [path for path in self._store.folders() if _NAME.fullmatch(path.name)]
        return [self.describe(path.name) for path in folders[::-1][:most]]

    async def frames(self, name: str, after: int) -> AsyncIterator[str]:
        """A run's events after number `after`: recorded ones first, then new ones as they happen.

        The stream ends with the run, or when the server shuts down. If the run has not finished, a
        last event "ended" gives its status.
        """
        live = self._player.live(name)
        if live is None:
            entries = follow_record(self.record(name).folder, after, partial(self._elsewhere, name))
        else:
            entries = live.log.follow(after)
        async for told in entries:
            if live is not None and self._admission.draining:
                break
            yield frame(told)
        described = self.describe(name)
        if described["status"] != "finished":
            data = {"status": described["status"], "error": described["error"]}
            yield f"event: ended\ndata: {json.dumps(data)}\n\n"

    def _status(self, name: str, record: RunRecord, ended: dict[str, Any]) -> Status:
        if self._player.live(name):
            return "running"
        if record.finished:
            return "finished"
        if "status" in ended:
            told: Status = ended["status"]
            return told
        if self._player.elsewhere(name):
            return "running"
        # The run may have ended since the record was read.
        return "finished" if RunRecord(record.folder).finished else "interrupted"

    def _elsewhere(self, name: str) -> bool:
        """Whether another process executes the run and this one still reports on it."""
        return not self._admission.draining and self._player.elsewhere(name)

    def _check_room(self, images: int) -> None:
        self._admission.check(images)
        if self._player.running >= self._limits.runs:
            raise busy(f"{self._player.running} runs are in progress, the maximum.", 15)
