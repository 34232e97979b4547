"""Runs many requests, each recorded in one folder, so that a batch can be resumed."""

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
"""Why a batch starts no further calls."""


class Batch:
    """Runs the requests of a file. Use it as a context manager, which locks the folder.

    The folder contains `runs`, with a record for each request, `pictures`, with the best image of
    each, and `results.jsonl`, with a line for each request that is done or failed. A request with a
    complete record is done; any other is resumed from its record.

    Attributes:
        results: The results so far, by request id.
        may_work_later: Whether any failure may be temporary.
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
        """Prepare a batch; nothing is written yet.

        Args:
            folder: Folder for this batch.
            requests: The requests to run.
            loop: Runs them; its limits apply to each request.
            model: The local model that generates the images, if any.
            max_usd: Cost limit in US dollars for all requests, including earlier costs.
            deadline: Time limit in seconds from now.
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
        self._unrecorded: dict[str, float] = {}  # costs that are in no record
        self._pressed = False

    def __enter__(self) -> Self:
        """Lock the folder and read what is already done.

        Raises:
            RunRecordError: Another process uses the folder, or a record belongs to a different
                request with the same id.
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
        """Unlock the folder."""
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
                continue  # reported when its turn comes
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
            # A call that ended the run with an error is not in the record.
            self._unrecorded[one.id] = max(0.0, row.usd - recorded)
        self._spend(one, recorded)

    def _is_done(self, record: RunRecord, row: BatchResult) -> bool:
        picture = self.picture(row)
        if not record.finished or (picture is not None and not picture.is_file()):
            return False
        return row.error_kind != "judge" or not record.state().unasked

    @property
    def results_file(self) -> Path:
        """The path of the results table."""
        return self._folder / RESULTS_FILE

    def picture(self, row: BatchResult) -> Path | None:
        """The path of a result's image; None if it has none."""
        return None if row.path is None else self._folder / row.path

    @property
    def todo(self) -> list[BatchRequest]:
        """The requests that are neither done nor failed, in the order of the file."""
        return [one for one in self.requests if one.id not in self.results]

    @property
    def usd(self) -> float | None:
        """The total cost so far in US dollars; None if part of it is unknown."""
        # Copied first, as a display may read this from another thread.
        all_costs = tuple(self._usd.values())
        known = [usd for usd in all_costs if usd is not None]
        return sum(known) if len(known) == len(all_costs) else None

    @property
    def stopped(self) -> BatchStop | None:
        """Why no further call may start; None if calls may start."""
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
        """Start no further calls; calls in flight are finished and recorded."""
        self._pressed = True

    async def draw(
        self,
        *,
        concurrency: int = 1,
        on_event: Callable[[BatchRequest, Event], None] = lambda one, event: None,
        on_result: Callable[[BatchResult], None] = lambda result: None,
    ) -> None:
        """Run the remaining requests until all are done or a limit or `stop` ends the batch.

        A failed request is recorded and does not stop the others.

        Args:
            concurrency: How many requests to run at once.
            on_event: Called with each event of each run, including those from its record.
            on_result: Called with each result once it is written.

        Raises:
            OSError: A file cannot be written.
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
        """Run a request and return its result; None if it was stopped."""
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
        with suppress(RunRecordError):  # it may be missing or unreadable
            seconds = RunRecord(self._run(one)).clock.get("total", 0.0)
        return BatchResult.failed(
            one.id, one.request.text, error, usd=self._usd[one.id], seconds=seconds
        )

    def _spend(self, one: BatchRequest, usd: float | None) -> None:
        # Events repeated from a record are already counted and cost nothing again.
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
    """Usage of a failed call; unknown unless the error states it."""
    unpaid = not hasattr(error, "usage") or getattr(error, "fault", None) in UNPAID
    return getattr(error, "usage", None) or (Usage.zero() if unpaid else Usage())
