"""Work that several callers may wait for, and logs that several callers may follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

NOBODY_YET = 5.0
"""Seconds that work goes on before anybody waits for it; who asked may have gone that moment."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One message of a log.

    Attributes:
        kind: Its name.
        data: JSON text.
        number: Its place among those that are kept, from 1; None for passing ones.
    """

    kind: str
    data: str
    number: int | None = None


class EventLog:
    """Messages in order; each follower reads at its own pace and nothing is kept twice.

    Passing messages, such as progress, are kept only until a newer one of the same name is there,
    so that a slow follower costs no memory.
    """

    def __init__(self) -> None:
        self._kept: list[Entry] = []
        self._passing: dict[object, tuple[int, Entry]] = {}
        self._serial = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more comes."""
        return self._closed

    def keep(self, kind: str, data: str) -> None:
        """Add a message that every follower gets."""
        self._kept.append(Entry(kind, data, len(self._kept) + 1))
        self._tell()

    def pass_on(self, name: object, kind: str, data: str) -> None:
        """Add a message that only matters until the next one of that name."""
        self._serial += 1
        self._passing[name] = self._serial, Entry(kind, data)
        self._tell()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._passing.clear()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, after: int = 0, *, beat: float = 15.0) -> AsyncIterator[Entry | None]:
        """All kept messages after number `after`, then new ones until the log is closed.

        Args:
            after: The last number that is known already.
            beat: After so many silent seconds comes a None.
        """
        seen = 0
        while True:
            changed = self._changed
            while after < len(self._kept):
                entry = self._kept[after]
                after += 1
                yield entry
            fresh = (
                sorted((s, e) for s, e in self._passing.values() if s > seen)
                if seen < self._serial
                else []
            )
            for serial, entry in fresh:
                seen = serial
                yield entry
            if changed.is_set():
                continue
            if self._closed:
                return
            try:
                async with asyncio.timeout(beat):
                    await changed.wait()
            except TimeoutError:
                yield None


class SharedWork(Generic[T]):
    """A piece of work that ends early when nobody waits for it any more.

    Attributes:
        log: What it has to say before it is done.
    """

    def __init__(
        self,
        work: Callable[[EventLog], Awaitable[T]],
        *,
        patience: float = 0.0,
        on_abandoned: Callable[[], Any] = lambda: None,
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin.

        Args:
            work: Does it, given the log to write to.
            patience: Seconds it goes on when nobody waits, in case somebody comes back.
            on_abandoned: Called when it is ended for want of anybody waiting.
            wanted: Whether somebody waits who is not in this process.
        """
        self.log = EventLog()
        self._patience = patience
        self._on_abandoned = on_abandoned
        self._wanted = wanted
        self._waiting = 0
        self._ending: asyncio.TimerHandle | None = None
        self._task = asyncio.ensure_future(work(self.log))
        self._task.add_done_callback(self._finish)
        self._end_later(max(NOBODY_YET, patience))

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._task.done()

    def on_done(self, tell: Callable[[bool], Any]) -> None:
        """Have something called when it is over, with whether there is a result."""
        self._task.add_done_callback(
            lambda task: tell(not task.cancelled() and task.exception() is None)
        )

    async def result(self) -> T:
        """What came of it; cancelling the waiting does not end the work."""
        return await asyncio.shield(self._task)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Wait for it inside; when the last one leaves early, the work ends."""
        self._waiting += 1
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting and not self.done:
                self._end_later(self._patience)

    def _end_later(self, seconds: float) -> None:
        self._ending = asyncio.get_running_loop().call_later(seconds, self._abandon)

    def _abandon(self) -> None:
        if self._waiting or self.done:
            return
        if self._wanted():
            self._end_later(max(1.0, self._patience))
            return
        self._on_abandoned()
        self._task.cancel()

    def _finish(self, task: asyncio.Future[T]) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if not task.cancelled():
            # Whoever still waits is told; where nobody does, this keeps the error from a log.
            task.exception()
        self.log.close()
