"""A thread that generates images for many callers at once, batched step by step."""

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
"""Seconds of steps before another thread may use the model; about the duration of a draft."""


@dataclass(frozen=True)
class Preview:
    """A preview of an unfinished image.

    Attributes:
        picture: The preview, usually small.
        size: Width and height of the finished image.
    """

    picture: Image
    size: tuple[int, int]

    def enlarged(self) -> Image:
        """The preview, scaled to the size of the finished image."""
        return self.picture.resize(self.size)


PreviewCallback = Callable[[Preview, int], None]
"""Called from the scheduler's thread with a preview and the image's index in the call."""


@dataclass(frozen=True)
class Drawn:
    """A finished image.

    Attributes:
        picture: The image.
        seconds: Time from the first step to the last, which other images may have shared.
    """

    picture: Image
    seconds: float


@dataclass
class Order:
    """What one call asks for, and what its images share once it has started.

    Attributes:
        prompt: The prompt.
        settings: Settings with size, steps and guidance filled in.
        on_step: Called for each step; an exception ends the call.
        on_preview: Called with previews.
        previews: Number of previews, spread evenly over the steps.
        start: The image to start from; None starts from noise.
        abandoned: Set when nobody waits for the call any more.
        schedule: Set by the scheduler's thread.
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
        """Pixels per image."""
        return (self.settings.width or 1) * (self.settings.height or 1)

    def wants_preview(self, done: int, total: int) -> bool:
        """Whether a preview is due after `done` of `total` steps."""
        marks = {total * k // (self.previews + 1) for k in range(1, self.previews + 1)}
        return done in marks and 0 < done < total


@dataclass
class Ticket:
    """One requested image.

    Attributes:
        order: The call the image belongs to.
        index: Index of the image in the call.
        seed: Seed of the noise.
        result: The image, or the error.
        row: The image in progress; None while it waits.
    """

    order: Order
    index: int
    seed: int
    result: Future[Drawn] = field(default_factory=Future)
    row: Row | None = None


class StepScheduler:
    """Generates images in batches of one size, which images join and leave between steps.

    The scheduler holds the runtime's lock only briefly at a time, so that a text encoder that
    rewrites requests with the same weights gets its turn between steps.

    Args:
        runtime: The model.
        most_pixels: Maximum number of pixels in progress; a single image is always accepted.
        most_pictures: Maximum number of images in progress.

    Attributes:
        most_pictures: Maximum number of images in progress.
        largest_batch: Largest number of images in a single step so far.
        steps: Number of batched steps done.
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
        """Generate a call's images; cancelling removes them from the batch before its next step.

        Raises:
            GeneratorError: The scheduler is closed.
            LensCoreError: Lens does not support a setting, or the latents became NaN or infinite.
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
        """Stop; unfinished images fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def in_work(self) -> int:
        """Number of images in the batch."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Number of images not in the batch yet."""
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
        """Wait for work and admit waiting images; False when closed."""
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
        """Start the images that joined, then advance all images of one size by a step."""
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
        # Sizes take turns: the images just advanced go behind the others.
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
        # The caller may have stopped waiting at this moment.
        with suppress(Exception):
            tell()


def _row(ticket: Ticket) -> Row:
    assert ticket.row is not None, "begun at the start of the turn"
    return ticket.row
