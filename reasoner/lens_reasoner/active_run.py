"""One run under way: its events, its clock and its limits."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
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
    """Wall-clock seconds by stage; a stage runs while at least one of its calls is under way.

    Args:
        before: Seconds of the same run until it was interrupted.
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
        """Seconds of each stage so far, and "total"."""
        now = time.perf_counter()
        running = {stage: now - since for stage, since in self._since.items()}
        stages = dict.fromkeys([*self._spent, *running])
        seconds = {s: self._spent.get(s, 0.0) + running.get(s, 0.0) for s in stages}
        return {**seconds, "total": self.total}

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Count the time spent inside."""
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
    """What one run carries from stage to stage; made within its event loop.

    Attributes:
        untold: What calls consumed that no event tells of yet.
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
        """Begin, or take up what the writer's record already holds.

        Args:
            request: What was asked for.
            settings: How to draw it.
            limits: When to end.
            rubric: The criteria, where they were given.
            writer: Writes the events down; None keeps them in memory only.
            stop: Whether to begin no further call and leave the rest for later.
        """
        self.request = request
        self.settings = settings
        self.limits = limits
        self.rubric = rubric
        self.state = RunState()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.untold = Usage.zero()
        self._writer = writer
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._timeout: asyncio.Timeout | None = None
        for event in writer.record.events if writer is not None else ():
            self._tell(event)
        self.clock = StageClock(writer.record.clock if writer is not None else {})

    def begin(self) -> None:
        """Emit the first event, unless it was before."""
        if self.state.request is None:
            asked = self.request.seed
            seed = secrets.randbelow(2**31) if asked is None else asked
            self.emit(Started(request=self.request, seed=seed))

    def emit(self, event: Event) -> None:
        """Write the event down, take it in and hand it out."""
        if self._writer is not None and not isinstance(event, Step):
            self._writer.append(event, self.clock.read())
        self._tell(event)

    def _tell(self, event: Event) -> None:
        self.state.apply(event)
        self.events.put_nowait(event)

    def emit_from_any_thread(self, event: Event) -> None:
        """`emit`, also from a drawing thread."""
        if threading.get_ident() == self._thread:
            self.emit(event)
        else:
            self._loop.call_soon_threadsafe(self.emit, event)

    def finish(self, reason: StopReason) -> None:
        """Emit the last event."""
        best = self.state.best
        self.emit(
            Finished(
                stop_reason=reason,
                best=None if best is None else best.index,
                timings=self.clock.read(),
            )
        )

    def until_deadline(self) -> asyncio.Timeout:
        """The context in which the run's work is cancelled when its time is over."""
        deadline = self.limits.deadline
        left = None if deadline is None else max(0.0, deadline - self.clock.total)
        self._timeout = asyncio.timeout(left)
        return self._timeout

    @property
    def out_of_time(self) -> bool:
        """Whether the work was cancelled because its time is over."""
        return self._timeout is not None and self._timeout.expired()

    @property
    def exhausted(self) -> StopReason | None:
        """Why no further call may begin; None if it may."""
        if self._stop is not None and self._stop():
            return "interrupted"
        if self.limits.max_usd is None:
            return None
        spent = (self.state.usage + self.untold).usd
        if spent is None:
            return "cost_unknown"
        return "max_cost" if spent >= self.limits.max_usd else None

    @contextmanager
    def stage(
        self, stage: Stage, *, index: int | None = None, round_number: int | None = None
    ) -> Iterator[None]:
        """Time a call; one that the deadline cuts off is recorded as failed, as it may have cost.

        Args:
            stage: What kind of call.
            index: The candidate it is about, if one.
            round_number: The round it is about, if one.
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
            # Who has worked for nothing so far, such as a model in this process, still does.
            usage=Usage.zero() if earlier == Usage.zero() else Usage(),
        )

    def planned(self, round_number: int) -> range:
        """The numbers of the candidates of a round, fewer than asked for at the image limit."""
        count = self.request.num_images
        first, most = round_number * count, self.limits.max_images
        return range(first, first + count if most is None else min(first + count, most))

    def seed_of(self, index: int) -> int:
        """The seed of a candidate; past the largest one they begin again at 0."""
        return (self.state.seed + index) % (MAX_SEED + 1)
