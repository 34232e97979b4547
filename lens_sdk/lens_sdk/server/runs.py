"""Runs of the agentic loop: recorded, followed by any number of clients, resumed."""

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
    """Plays runs in the background, whether or not anybody watches.

    A run's events are numbered from 1 in the order of its record, so that a client that lost its
    connection, or the server, goes on after the last number it knows. What a server that stops
    leaves unfinished is "interrupted" and can be resumed.

    Processes that share the folder play each run in one of them, and any of them can be asked for
    it: what another plays is followed by its record, without single steps, and ended by a mark.
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
        """Runs under way."""
        return self._player.running

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
        """Go on with a run that is not finished, or ended because its judge could not be asked.

        One that is under way is left alone.

        Raises:
            ApiError: There is no such run, or no room for it.
            RunRecordError: It was begun with other parts than this server has.
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
        """End a run; its pictures so far stay. One that is over stays as it is.

        Raises:
            ApiError: There is no such run, or the process that plays it does not answer.
        """
        if self._player.live(name) is None:
            self.record(name)
        await self._player.end(name)

    async def close(self) -> None:
        """Interrupt what is under way; all of it is on the disk."""
        await self._player.close()

    def wake(self) -> None:
        """Let those who follow runs see that the server is shutting down."""
        self._player.wake()

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
        """A run's events after a number: what was recorded, then what happens.

        The stream ends with the run, or when the server shuts down; where the run has not finished,
        a last event "ended" tells its status.
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
        # It may have ended since it was read.
        return "finished" if RunRecord(record.folder).finished else "interrupted"

    def _elsewhere(self, name: str) -> bool:
        """Whether a run goes on in another process, and this one still tells of it."""
        return not self._admission.draining and self._player.elsewhere(name)

    def _check_room(self, images: int) -> None:
        self._admission.check(images)
        if self._player.running >= self._limits.runs:
            raise busy(f"{self._player.running} runs are in progress, the maximum.", 15)
