"""The state of a run in progress: its events, its clock and its limits."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from lens_reasoner.events import (
    Event,
    Finished,
    Stage,
    StageFailed,
    StageFailure,
    Started,
    Step,
    StopReason,
)
from lens_reasoner.loop_limits import LoopLimits
from lens_reasoner.record import RunWriter
from lens_reasoner.run_state import RunState
from lens_reasoner.types import MAX_SEED, GenerationSettings, ImageRequest, Rubric, Seconds, Usage


class StageClock:
    """Wall-clock seconds by stage; a stage's clock runs while any of its calls is in flight.

    Args:
        before: Seconds of the same run before it was interrupted.
    """

    def __init__(self, before: Mapping[str, Seconds]) -> None:
        self._before = before
        self._started = time.perf_counter()
        self._spent: dict[str, float] = {k: v for k, v in before.items() if k != "total"}
        self._under_way: dict[str, int] = {}
        self._since: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Seconds of the whole run so far."""
        return self._before.get("total", 0.0) + time.perf_counter() - self._started

    def read(self) -> dict[str, Seconds]:
        """Seconds of each stage so far, with "total"."""
        now = time.perf_counter()
        running = {stage: now - since for stage, since in self._since.items()}
        stages = dict.fromkeys([*self._spent, *running])
        seconds = {s: self._spent.get(s, 0.0) + running.get(s, 0.0) for s in stages}
        return {**seconds, "total": self.total}

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Count the time spent inside the context."""
        self._under_way[stage] = self._under_way.get(stage, 0) + 1
        self._since.setdefault(stage, time.perf_counter())
        try:
            yield
        finally:
            self._under_way[stage] -= 1
            if not self._under_way[stage]:
                elapsed = time.perf_counter() - self._since.pop(stage)
                self._spent[stage] = self._spent.get(stage, 0.0) + elapsed


class ActiveRun:
    """State that one run's stages share; created within the run's event loop.

    Attributes:
        unreported: What calls consumed that no event reports yet.
    """

    def __init__(
        self,
        request: ImageRequest,
        settings: GenerationSettings,
        limits: LoopLimits,
        *,
        rubric: Rubric | None = None,
        writer: RunWriter | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Start a run, or continue one from what the writer's record holds.

        Args:
            request: The request.
            settings: How to generate its images.
            limits: When to end.
            rubric: The criteria, if given.
            writer: Records the events; None keeps them in memory only.
            stop: Whether to start no further call, so that the run can be resumed later.
        """
        self.request = request
        self.settings = settings
        self.limits = limits
        self.rubric = rubric
        self.state = RunState()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.unreported = Usage.zero()
        self._from_threads: deque[Event] = deque()
        self._writer = writer
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._timeout: asyncio.Timeout | None = None
        for event in writer.record.events if writer is not None else ():
            self._apply(event)
        self.clock = StageClock(writer.record.clock if writer is not None else {})

    def begin(self) -> None:
        """Emit `Started`, unless the record has it already."""
        if self.state.request is None:
            given = self.request.seed
            seed = secrets.randbelow(2**31) if given is None else given
            self.emit(Started(request=self.request, seed=seed))

    def emit(self, event: Event) -> None:
        """Record, apply and publish an event, after any earlier events from threads."""
        self._emit_from_threads()
        self._emit(event)

    def _emit_from_threads(self) -> None:
        while self._from_threads:
            self._emit(self._from_threads.popleft())

    def _emit(self, event: Event) -> None:
        if self._writer is not None and not isinstance(event, Step):
            self._writer.append(event, self.clock.read())
        self._apply(event)

    def _apply(self, event: Event) -> None:
        self.state.apply(event)
        self.events.put_nowait(event)

    def emit_from_any_thread(self, event: Event) -> None:
        """`emit`, callable from any thread."""
        if threading.get_ident() == self._thread:
            self.emit(event)
        else:
            # Since Python 3.14 a task goes on at once after a thread that has already ended, ahead
            # of what the thread scheduled.
            self._from_threads.append(event)
            self._loop.call_soon_threadsafe(self._emit_from_threads)

    def finish(self, reason: StopReason) -> None:
        """Emit `Finished`."""
        best = self.state.best
        self.emit(
            Finished(
                stop_reason=reason,
                best=None if best is None else best.index,
                timings=self.clock.read(),
            )
        )

    def until_deadline(self) -> asyncio.Timeout:
        """A context that cancels the run's work at the deadline."""
        deadline = self.limits.deadline
        left = None if deadline is None else max(0.0, deadline - self.clock.total)
        self._timeout = asyncio.timeout(left)
        return self._timeout

    @property
    def out_of_time(self) -> bool:
        """Whether the work was cancelled at the deadline."""
        return self._timeout is not None and self._timeout.expired()

    @property
    def exhausted(self) -> StopReason | None:
        """Why no further call may start; None if one may."""
        if self._stop is not None and self._stop():
            return "interrupted"
        if self.limits.max_usd is None:
            return None
        spent = (self.state.usage + self.unreported).usd
        if spent is None:
            return "cost_unknown"
        return "max_cost" if spent >= self.limits.max_usd else None

    @contextmanager
    def stage(
        self, stage: Stage, *, index: int | None = None, round_number: int | None = None
    ) -> Iterator[None]:
        """Time a call; if the deadline cuts it off, record it as failed, because it may have cost.

        Args:
            stage: The call's stage.
            index: The candidate it concerns, if any.
            round_number: The round it concerns, if any.
        """
        with self.clock.stage(stage):
            try:
                yield
            except asyncio.CancelledError:
                if self.out_of_time:
                    failure = self._cut_off(stage)
                    self.emit(StageFailed(index=index, round=round_number, failure=failure))
                raise

    def _cut_off(self, stage: Stage) -> StageFailure:
        earlier = self.state.spent.get(stage, Usage())
        return StageFailure(
            stage=stage,
            error="DeadlinePassed",
            message=f"It was in progress at the run's deadline of {self.limits.deadline:g} s.",
            hint="Allow more time.",
            # A stage whose calls have all been free, such as a local model, is assumed to stay so.
            usage=Usage.zero() if earlier == Usage.zero() else Usage(),
        )

    def planned(self, round_number: int) -> range:
        """The indexes of a round's candidates; fewer than requested at the image limit."""
        count = self.request.num_images
        first, most = round_number * count, self.limits.max_images
        return range(first, first + count if most is None else min(first + count, most))

    def seed_of(self, index: int) -> int:
        """The seed of a candidate; after the largest seed they continue from 0."""
        return (self.state.seed + index) % (MAX_SEED + 1)
