"""Limits how much work may wait, and estimates when refused callers should retry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lens_sdk.server.errors import ApiError

FIRST_GUESS = 20 * 1024 * 1024 / 30
"""Pixel steps per second before the first measurement: a one-megapixel image in 30 s."""

LONGEST = 600.0


class Admission:
    """Counts the images in progress or waiting, and measures how fast they are finished.

    Work is measured in pixel steps: width times height times sampler steps. Refused callers get
    staggered retry times, so that they do not all return when there is room for the first.
    """

    def __init__(self, most_images: int) -> None:
        self._most = most_images
        self._images = 0
        self._work = 0.0
        self._done = 0.0
        self._busy = 0.0
        self._busy_since: float | None = None
        self._told: list[tuple[float, int]] = []
        self._parts = 0
        self.draining = False

    @property
    def images(self) -> int:
        """Number of images in progress or waiting."""
        return self._images

    @property
    def parts(self) -> int:
        """Number of separate rewrites and judgements in progress."""
        return self._parts

    @property
    def rate(self) -> float:
        """Measured pixel steps per second, not counting idle time."""
        busy = self._busy + (time.monotonic() - self._busy_since if self._busy_since else 0.0)
        return self._done / busy if self._done and busy else FIRST_GUESS

    def check(self, images: int) -> None:
        """Refuse work if there is no room for it.

        Raises:
            ApiError: 429, with the seconds after which there should be room, or 503 during
                shutdown.
        """
        if self.draining:
            raise ApiError(
                503,
                "The server is shutting down.",
                kind="server_error",
                code="shutting_down",
                retry_after=10,
            )
        too_many = self._images + images - self._most
        if too_many > 0 and self._images:
            seconds = self._wait(images, too_many)
            raise busy(
                f"{self._images} images are being generated or waiting; the limit is {self._most}. "
                f"Try again in {seconds:.0f} s.",
                seconds,
            )

    def _wait(self, images: int, too_many: int) -> float:
        """Seconds until there is room behind the callers refused before; records this one.

        The wait never exceeds the estimated time for the current work. The estimate is uncertain,
        and an empty queue while callers wait would be worse than refusing some of them again.
        """
        now = time.monotonic()
        self._told = [(back, number) for back, number in self._told if back > now]
        ahead = sum(number for _, number in self._told)
        leave = min(1.0, (too_many + ahead) / self._images)
        seconds = min(self._work / self.rate * leave, LONGEST)
        if leave < 1:
            self._told.append((now + seconds, images))
        return seconds

    @contextmanager
    def part(self, most: int) -> Iterator[None]:
        """Take room for a separate rewrite or judgement inside the context.

        Args:
            most: How many may be in progress at once.

        Raises:
            ApiError: 429, or 503 during shutdown.
        """
        self.check(0)
        if self._parts >= most:
            raise busy(f"{self._parts} rewrites and judgements are in progress, the maximum.", 15)
        self._parts += 1
        try:
            yield
        finally:
            self._parts -= 1

    def take(self, images: int, work: float) -> Room:
        """Take room for work; see `check`.

        Args:
            images: Number of images.
            work: Pixel steps of all images together.
        """
        self.check(images)
        if not self._images:
            self._busy_since = time.monotonic()
        self._images += images
        self._work += work
        return Room(self, images, work)

    def give_back(self, room: Room, *, finished: bool) -> None:
        """Return room; see `Room.leave`."""
        if finished:
            self._done += room.work
        self._images -= room.images
        self._work -= room.work
        if not self._images and self._busy_since is not None:
            self._busy += time.monotonic() - self._busy_since
            self._busy_since = None


@dataclass(frozen=True)
class Room:
    """Room that a piece of work has taken.

    Attributes:
        admission: Where the room was taken.
        images: Number of images.
        work: Pixel steps of all images together.
    """

    admission: Admission
    images: int
    work: float

    def leave(self, *, finished: bool) -> None:
        """Return the room; call this exactly once.

        Args:
            finished: Whether the work was completed; only then does it count for the measured rate.
        """
        self.admission.give_back(self, finished=finished)


def busy(message: str, seconds: float) -> ApiError:
    """An error that refuses a request because of load, with the seconds to wait before retrying."""
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after=seconds,
    )
