"""Many requests, each a recorded run in one folder, so that a batch goes on where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from lens_reasoner import (
    AgentLoop,
    Event,
    LoopResult,
    ReasonerError,
    RunRecord,
    RunRecordError,
    RunState,
    Usage,
)
from lens_reasoner.errors import UNPAID
from lens_reasoner.record import EVENTS, LOCK
from lens_reasoner.together import together
from lens_sdk.batch_requests import BatchRequest
from lens_sdk.batch_results import (
    BatchResult,
    append_result,
    read_results,
    write_results,
)
from lens_sdk.error_kinds import TRANSIENT, may_work_later
from lens_sdk.models import LensModel
from lens_sdk.tracing import traced

RESULTS_FILE = "results.jsonl"
RUNS = "runs"
PICTURES = "pictures"

BatchStop = Literal["interrupted", "max_cost", "cost_unknown", "deadline"]
"""Why a batch begins no further call."""


class Batch:
    """Draws the requests of a file; use it as a context manager, which keeps others out.

    In its folder, `runs` has a record for each request, `pictures` the best picture of each, and
    `results.jsonl` a line for each that is done or failed. A request whose record is complete is
    done; any other one goes on from its record.

    Attributes:
        results: The lines so far, by id.
        may_work_later: Whether something failed that may work another time.
    """

    def __init__(
        self,
        folder: Path,
        requests: Sequence[BatchRequest],
        loop: AgentLoop,
        *,
        model: LensModel | None = None,
        max_usd: float | None = None,
        deadline: float | None = None,
    ) -> None:
        """Choose what to draw, and with what.

        Args:
            folder: The batch's own.
            requests: What to draw.
            loop: Draws them; its limits are those of each request.
            model: The local model that draws, if one does.
            max_usd: Most US dollars for all requests, with what they cost before.
            deadline: Most seconds from now on.
        """
        self.requests = tuple(requests)
        self.results: dict[str, BatchResult] = {}
        self.may_work_later = False
        self._folder = folder
        self._loop = loop
        self._model = model
        self._max_usd = max_usd
        self._ends = None if deadline is None else time.monotonic() + deadline
        self._usd: dict[str, float | None] = {}
        self._unrecorded: dict[str, float] = {}  # what records do not tell of
        self._pressed = False

    def __enter__(self) -> Self:
        """Take the folder, and see what is done already.

        Raises:
            RunRecordError: Somebody else is drawing there, or a record is of something else than
                the request of its name.
        """
        from filelock import FileLock, Timeout

        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / LOCK, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RunRecordError(
                f"Another batch is being drawn in {self._folder}.",
                hint="Wait for it, or choose another folder.",
            ) from error
        try:
            self._look()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it to others."""
        self._lock.release()

    def _look(self) -> None:
        known = read_results(self.results_file)
        first = self._loop.header(self.requests[0].request)
        for one in self.requests:
            if (row := known.get(one.id)) is not None:
                self._usd[one.id] = row.usd
                self._unrecorded[one.id] = row.usd or 0.0
            if not (self._run(one) / EVENTS).exists():
                continue
            try:
                record = RunRecord(self._run(one))
            except RunRecordError:
                continue  # told when its turn comes
            header = first.model_copy(update={"request": one.request, "rubric": one.rubric})
            record.header.check_same(header, record.folder)
            with suppress(RunRecordError):
                self._take_up(one, record, row)

    def _take_up(self, one: BatchRequest, record: RunRecord, row: BatchResult | None) -> None:
        if row is not None and self._is_done(record, row):
            self.results[one.id] = row
            return
        recorded = record.state().usage.usd
        if row is not None and row.usd is not None and recorded is not None:
            # A call that ended the run with an error is in no record.
            self._unrecorded[one.id] = max(0.0, row.usd - recorded)
        self._spend(one, recorded)

    def _is_done(self, record: RunRecord, row: BatchResult) -> bool:
        picture = self.picture(row)
        if not record.finished or (picture is not None and not picture.is_file()):
            return False
        return row.error_kind != "judge" or not record.state().unasked

    @property
    def results_file(self) -> Path:
        """The table."""
        return self._folder / RESULTS_FILE

    def picture(self, row: BatchResult) -> Path | None:
        """Where a line's picture is."""
        return None if row.path is None else self._folder / row.path

    @property
    def todo(self) -> list[BatchRequest]:
        """What is neither done nor failed, in the order of the file."""
        return [one for one in self.requests if one.id not in self.results]

    @property
    def usd(self) -> float | None:
        """What all of it has cost so far; None if some of that is unknown."""
        # Copied at once: a display may ask from another thread.
        all_costs = tuple(self._usd.values())
        known = [usd for usd in all_costs if usd is not None]
        return sum(known) if len(known) == len(all_costs) else None

    @property
    def stopped(self) -> BatchStop | None:
        """Why no further call may begin; None if it may."""
        if self._pressed:
            return "interrupted"
        if self._ends is not None and time.monotonic() >= self._ends:
            return "deadline"
        if self._max_usd is None:
            return None
        usd = self.usd
        if usd is None:
            return "cost_unknown"
        return "max_cost" if usd >= self._max_usd else None

    def stop(self) -> None:
        """Begin no further call; those under way are finished and kept."""
        self._pressed = True

    async def draw(
        self,
        *,
        concurrency: int = 1,
        on_event: Callable[[BatchRequest, Event], None] = lambda one, event: None,
        on_result: Callable[[BatchResult], None] = lambda result: None,
    ) -> None:
        """Draw what is left, until that is done or something stops it.

        What fails is noted and does not keep the others from being drawn.

        Args:
            concurrency: Requests under way at once.
            on_event: Told each event of each run, those of its record included.
            on_result: Told each line when it is written.

        Raises:
            OSError: Something cannot be written.
        """
        self._write()
        left = iter(self.todo)
        try:
            await together(self._work(left, on_event, on_result) for _ in range(concurrency))
        finally:
            self._write()

    async def _work(
        self,
        left: Iterator[BatchRequest],
        on_event: Callable[[BatchRequest, Event], None],
        on_result: Callable[[BatchResult], None],
    ) -> None:
        for one in left:
            if self.stopped:
                return
            result = await self._draw(one, on_event)
            if result is not None:
                self.results[one.id] = result
                append_result(self.results_file, result)
                on_result(result)

    async def _draw(
        self, one: BatchRequest, on_event: Callable[[BatchRequest, Event], None]
    ) -> BatchResult | None:
        """A request's line; None if it was stopped."""
        state = RunState()
        stream = self._loop.stream(
            one.request,
            rubric=one.rubric,
            record=self._run(one),
            stop=lambda: self.stopped is not None,
        )
        try:
            async with aclosing(traced(stream)) as events:
                async for event in events:
                    state.apply(event)
                    self._spend(one, state.usage.usd)
                    on_event(one, event)
        except ReasonerError as error:
            return self._failed(one, state, error)
        if state.finished is None:
            return None
        result = state.result()
        if state.unasked:
            known = (*result.failures, *(one.failure for one in result.candidates if one.failure))
            self.may_work_later |= any(failure.fault in TRANSIENT for failure in known)
        path = await asyncio.to_thread(self._save, one, result)
        return BatchResult.of(one.id, result, path=path, usd=self._usd[one.id])

    def _failed(self, one: BatchRequest, state: RunState, error: ReasonerError) -> BatchResult:
        self.may_work_later = self.may_work_later or may_work_later(error)
        self._spend(one, (state.usage + _consumed(error)).usd)
        seconds = 0.0
        with suppress(RunRecordError):  # there may be none, or one that cannot be read
            seconds = RunRecord(self._run(one)).clock.get("total", 0.0)
        return BatchResult.failed(
            one.id, one.request.text, error, usd=self._usd[one.id], seconds=seconds
        )

    def _spend(self, one: BatchRequest, usd: float | None) -> None:
        # What a record repeats is known already, and costs nothing again.
        known = self._usd.get(one.id, 0.0)
        if usd is None or known is None:
            self._usd[one.id] = None
        else:
            self._usd[one.id] = max(usd + self._unrecorded.get(one.id, 0.0), known)

    def _save(self, one: BatchRequest, result: LoopResult) -> str | None:
        from lens_sdk.metadata import save_candidate

        if result.best is None:
            return None
        path = self._folder / PICTURES / f"{one.id}.png"
        path = save_candidate(result, result.best, path, self._model)
        return path.relative_to(self._folder).as_posix()

    def _run(self, one: BatchRequest) -> Path:
        return self._folder / RUNS / one.id

    def _write(self) -> None:
        rows = [self.results[one.id] for one in self.requests if one.id in self.results]
        write_results(self.results_file, rows)


def _consumed(error: ReasonerError) -> Usage:
    """What a call that failed consumed; unknown unless the error says."""
    unpaid = not hasattr(error, "usage") or getattr(error, "fault", None) in UNPAID
    return getattr(error, "usage", None) or (Usage.zero() if unpaid else Usage())
