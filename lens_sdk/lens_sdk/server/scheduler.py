"""A thread that draws for many callers at once, batching them step by step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lens_reasoner import GenerationSettings, GeneratorError, StepCallback, StepProgress
from lens_sdk.runtime import LensRuntime

if TYPE_CHECKING:
    from PIL.Image import Image

    from lens_core.starting_points import StartingPictures
    from lens_sdk.server.batching import RowSampler
    from lens_sdk.server.rows import Row, Schedule

LONGEST_HOLD = 0.25
"""Seconds of steps before another thread may have the model; about what a draft takes."""


@dataclass(frozen=True)
class Preview:
    """An unfinished picture.

    Attributes:
        picture: As it came, usually small.
        size: Width and height of the finished one.
    """

    picture: Image
    size: tuple[int, int]

    def enlarged(self) -> Image:
        """The picture in the size of the finished one."""
        return self.picture.resize(self.size)


PreviewCallback = Callable[[Preview, int], None]
"""Told about an unfinished picture and its place in the call, from the drawing thread."""


@dataclass(frozen=True)
class Drawn:
    """A finished picture.

    Attributes:
        picture: The picture.
        seconds: From its first step to its last; other pictures may have shared them.
    """

    picture: Image
    seconds: float


@dataclass
class Order:
    """What one call asks for, and what its pictures share once it was looked at.

    Attributes:
        prompt: The prompt.
        settings: With size, steps and guidance filled in.
        on_step: Told about each step; an exception ends the call.
        on_preview: Told about unfinished pictures.
        previews: How many of those, evenly over the steps.
        start: A picture to start from; None starts from noise.
        abandoned: Set when nobody waits any more.
        schedule: Made in the drawing thread.
    """

    prompt: str
    settings: GenerationSettings
    on_step: StepCallback | None = None
    on_preview: PreviewCallback | None = None
    previews: int = 0
    start: StartingPictures | None = None
    abandoned: bool = False
    schedule: Schedule | None = None

    @property
    def pixels(self) -> int:
        """Of each picture."""
        return (self.settings.width or 1) * (self.settings.height or 1)

    def wants_preview(self, done: int, total: int) -> bool:
        """Whether a picture is to be shown after `done` of `total` steps."""
        marks = {total * k // (self.previews + 1) for k in range(1, self.previews + 1)}
        return done in marks and 0 < done < total


@dataclass
class Ticket:
    """One picture that was asked for.

    Attributes:
        order: The call it belongs to.
        index: Its place in the call.
        seed: Its noise.
        result: The picture, or why there is none.
        row: The picture under way; None while it waits.
    """

    order: Order
    index: int
    seed: int
    result: Future[Drawn] = field(default_factory=Future)
    row: Row | None = None


class StepScheduler:
    """Draws waiting pictures in batches of one size; they join and leave between steps.

    Steps are done under the runtime's lock, for a moment at a time, so that a text encoder that
    rewrites requests with the same weights gets its turn between steps.

    Args:
        runtime: The model.
        most_pixels: Most pixels in work at once; one picture is always drawn.
        most_pictures: Most pictures in work at once.

    Attributes:
        most_pictures: The same.
        largest_batch: Most pictures that were stepped together.
        steps: Steps done for a batch.
    """

    def __init__(self, runtime: LensRuntime, *, most_pixels: int, most_pictures: int) -> None:
        self._runtime = runtime
        self._most_pixels = most_pixels
        self.most_pictures = most_pictures
        self._waiting: deque[Ticket] = deque()
        self._active: list[Ticket] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._sampler: RowSampler | None = None
        self.largest_batch = 0
        self.steps = 0

    async def draw(self, order: Order, seeds: Sequence[int]) -> list[Drawn]:
        """Draw a call's pictures; cancelling takes them out of the batch before its next step.

        Raises:
            GeneratorError: The scheduler is closed.
            LensCoreError: A setting that Lens cannot honour, or latents that are no numbers.
        """
        tickets = [Ticket(order, index, seed) for index, seed in enumerate(seeds)]
        self._put(tickets)
        try:
            return await asyncio.gather(*(asyncio.wrap_future(t.result) for t in tickets))
        finally:
            order.abandoned = True
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        """Stop; what is not finished fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def in_work(self) -> int:
        """Pictures in the batch."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Pictures not in the batch yet."""
        return len(self._waiting)

    def _put(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            if self._closed:
                raise GeneratorError("The model is being shut down.", hint="Ask again later.")
            self._waiting.extend(tickets)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="lens-step-scheduler", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while self._next():
            try:
                with self._runtime.exclusive() as pipeline:
                    if self._sampler is None:
                        from lens_sdk.server.batching import RowSampler

                        self._sampler = RowSampler(pipeline)
                    until = time.monotonic() + LONGEST_HOLD
                    self._turn(self._sampler)
                    while self._active and time.monotonic() < until and self._next():
                        self._turn(self._sampler)
            except Exception as error:
                self._fail(list(self._active), error)
        self._fail([*self._active, *self._waiting], GeneratorError("The model was shut down."))

    def _next(self) -> bool:
        """Wait for work and let waiting pictures in; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            if self._closed:
                return False
            for tickets in (self._active, self._waiting):
                for ticket in [t for t in tickets if t.order.abandoned]:
                    tickets.remove(ticket)
                    ticket.result.cancel()
            while self._waiting and self._fits(self._waiting[0]):
                self._active.append(self._waiting.popleft())
            return True

    def _fits(self, ticket: Ticket) -> bool:
        pixels = sum(t.order.pixels for t in self._active) + ticket.order.pixels
        room = len(self._active) < self.most_pictures and pixels <= self._most_pixels
        return room or not self._active

    def _turn(self, sampler: RowSampler) -> None:
        """Begin pictures that joined, then do one step of those of one size."""
        for ticket in [t for t in self._active if t.row is None]:
            try:
                order = ticket.order
                if order.schedule is None:
                    order.schedule = sampler.schedule(order.prompt, order.settings, order.start)
                ticket.row = sampler.row(order.schedule, ticket.seed)
            except Exception as error:
                self._fail([ticket], error)
        if not self._active:
            return
        grid = _row(self._active[0]).schedule.grid
        batch = [t for t in self._active if _row(t).schedule.grid == grid]
        sampler.advance([_row(ticket) for ticket in batch])
        self.steps += 1
        self.largest_batch = max(self.largest_batch, len(batch))
        for ticket in batch:
            try:
                self._report(sampler, ticket)
            except Exception as error:
                self._fail([ticket], error)
        # Sizes take turns: what was just stepped goes behind the others.
        behind = {id(ticket) for ticket in batch}
        with self._changed:
            self._active.sort(key=lambda ticket: id(ticket) in behind)
            idle = not (self._active or self._waiting)
        if idle:
            sampler.rest()

    def _report(self, sampler: RowSampler, ticket: Ticket) -> None:
        order, row = ticket.order, _row(ticket)
        total = row.schedule.steps
        if order.abandoned:
            return
        if order.on_step is not None:
            order.on_step(StepProgress(step=row.step, total=total, index=ticket.index))
        if order.on_preview is not None and order.wants_preview(row.step, total):
            order.on_preview(sampler.preview(row), ticket.index)
        if row.done:
            drawn = Drawn(sampler.picture(row), time.perf_counter() - row.began)
            self._settle(ticket, lambda: ticket.result.set_result(drawn))

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        for ticket in tickets:
            self._settle(ticket, lambda ticket=ticket: ticket.result.set_exception(error))  # type: ignore[misc]

    def _settle(self, ticket: Ticket, tell: Callable[[], None]) -> None:
        with self._changed:
            if ticket in self._active:
                self._active.remove(ticket)
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
        # Whoever waited may have given up this moment.
        with suppress(Exception):
            tell()


def _row(ticket: Ticket) -> Row:
    assert ticket.row is not None, "begun at the start of the turn"
    return ticket.row
