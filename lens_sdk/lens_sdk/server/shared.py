"""Work that several callers can wait for, and logs that several callers can follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

NOBODY_YET = 5.0
"""Seconds that new work continues if nobody waits for it, as the caller may have left already."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One message of a log.

    Attributes:
        kind: Name of the message.
        data: JSON text.
        number: Position among the kept messages, from 1; None for passing messages.
    """

    kind: str
    data: str
    number: int | None = None


class EventLog:
    """Messages in order; each follower reads at its own pace from a single shared copy.

    Passing messages, such as progress, are kept only until a newer one with the same name arrives,
    so slow followers cost no memory.
    """

    def __init__(self) -> None:
        self._kept: list[Entry] = []
        self._passing: dict[object, tuple[int, Entry]] = {}
        self._serial = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether no more messages will come."""
        return self._closed

    def keep(self, kind: str, data: str) -> None:
        """Add a message that every follower receives."""
        self._kept.append(Entry(kind, data, len(self._kept) + 1))
        self._tell()

    def pass_on(self, name: object, kind: str, data: str) -> None:
        """Add a message that is only relevant until the next one with the same name."""
        self._serial += 1
        self._passing[name] = self._serial, Entry(kind, data)
        self._tell()

    def close(self) -> None:
        """Close the log to new messages."""
        self._closed = True
        self._passing.clear()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, after: int = 0, *, beat: float = 15.0) -> AsyncIterator[Entry | None]:
        """All kept messages after number `after`, then new ones until the log is closed.

        Args:
            after: Number of the last message already known.
            beat: Seconds without a message after which a None is yielded.
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
    """A piece of work that is cancelled when nobody waits for it any more.

    Attributes:
        log: Messages from the work before it is done.
    """

    def __init__(
        self,
        work: Callable[[EventLog], Awaitable[T]],
        *,
        patience: float = 0.0,
        on_abandoned: Callable[[], Any] = lambda: None,
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the work.

        Args:
            work: Does the work; receives the log to write to.
            patience: Seconds to continue when nobody waits, in case a caller comes back.
            on_abandoned: Called when the work is cancelled because nobody waits.
            wanted: Whether a caller in another process waits.
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
        """Whether the work is over."""
        return self._task.done()

    def on_done(self, tell: Callable[[bool], Any]) -> None:
        """Call `tell` when the work is over, with whether it has a result."""
        self._task.add_done_callback(
            lambda task: tell(not task.cancelled() and task.exception() is None)
        )

    async def result(self) -> T:
        """Wait for the result; cancelling the wait does not cancel the work."""
        return await asyncio.shield(self._task)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Count as waiting inside the context; the work is cancelled if all callers leave early."""
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
            # Waiting callers get the error; if there are none, this keeps asyncio from logging it.
            task.exception()
        self.log.close()
