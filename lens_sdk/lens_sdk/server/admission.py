"""How much work may wait, and when it makes sense to ask again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lens_sdk.server.errors import ApiError

FIRST_GUESS = 20 * 1024 * 1024 / 30
"""Pixel steps per second before anything was measured: a picture of a megapixel in 30 s."""

LONGEST = 600.0


class Admission:
    """Counts the pictures that are drawn or wait, and measures how fast they leave.

    Work is counted in pixel steps: width times height times sampler steps. Callers that are refused
    are told to come back one after the other, not all when the first of them finds room.
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
        """Pictures that are drawn or wait."""
        return self._images

    @property
    def parts(self) -> int:
        """Rewrites and judgements by themselves under way."""
        return self._parts

    @property
    def rate(self) -> float:
        """Pixel steps per second while there was work."""
        busy = self._busy + (time.monotonic() - self._busy_since if self._busy_since else 0.0)
        return self._done / busy if self._done and busy else FIRST_GUESS

    def check(self, images: int) -> None:
        """Refuse what finds no room.

        Raises:
            ApiError: 429, with the seconds after which there should be room, or 503 in shutdown.
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
                f"{self._images} pictures are being drawn or wait; at most {self._most} may. "
                f"Try again in {seconds:.0f} s.",
                seconds,
            )

    def _wait(self, images: int, too_many: int) -> float:
        """Seconds until there is room, after those who were told before; notes who is told.

        Nobody is told to wait for more than what is here now: how fast it leaves is an estimate,
        and a queue that is empty while callers wait would be worse than to refuse some again.
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
        """Room for one part of the loop by itself, inside the context.

        Args:
            most: How many there may be at once.

        Raises:
            ApiError: 429, or 503 in shutdown.
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
            images: Pictures.
            work: Pixel steps of all of them.
        """
        self.check(images)
        if not self._images:
            self._busy_since = time.monotonic()
        self._images += images
        self._work += work
        return Room(self, images, work)

    def give_back(self, room: Room, *, finished: bool) -> None:
        """Take room back; see `Room.leave`."""
        if finished:
            self._done += room.work
        self._images -= room.images
        self._work -= room.work
        if not self._images and self._busy_since is not None:
            self._busy += time.monotonic() - self._busy_since
            self._busy_since = None


@dataclass(frozen=True)
class Room:
    """Room that some work has taken.

    Attributes:
        admission: Where it was taken.
        images: Pictures.
        work: Pixel steps.
    """

    admission: Admission
    images: int
    work: float

    def leave(self, *, finished: bool) -> None:
        """Give it back, exactly once.

        Args:
            finished: Whether the work was done, and so tells how fast work is done.
        """
        self.admission.give_back(self, finished=finished)


def busy(message: str, seconds: float) -> ApiError:
    """A refusal because of load, with the seconds after which to ask again."""
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after=seconds,
    )
