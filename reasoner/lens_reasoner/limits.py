"""Rate limits for one model: calls in flight, calls and tokens per minute."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager

from pydantic import Field

from lens_reasoner.chat import ImagePart, Message
from lens_reasoner.types import Value

MINUTE = 60.0
"""Window for rates, in seconds."""

_CHARACTERS_PER_TOKEN = 3
_TOKENS_PER_IMAGE = {"low": 100, "auto": 2500, "high": 2500}
_TOKENS_PER_ANSWER = 500


class Limits(Value):
    """Rate limits of one model; None means no limit.

    Attributes:
        concurrency: Maximum calls in flight.
        requests_per_minute: Maximum calls started within any 60 seconds, including retries.
        tokens_per_minute: Maximum tokens within any 60 seconds: estimated when a call starts, and
            corrected when its reply says what it used.
    """

    concurrency: int | None = Field(default=16, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


def estimate_tokens(messages: Sequence[Message], max_tokens: int | None = None) -> int:
    """A rough estimate of the tokens a call will use, on the high side."""
    total = _TOKENS_PER_ANSWER if max_tokens is None else max_tokens
    for part in (part for message in messages for part in message.parts):
        if isinstance(part, ImagePart):
            total += _TOKENS_PER_IMAGE[part.detail]
        else:
            total += len(part.text) // _CHARACTERS_PER_TOKEN + 1
    return total


class Slot:
    """One call: when it started (monotonic seconds) and how many tokens it counts for."""

    def __init__(self, begun: float, tokens: int) -> None:
        self.begun = begun
        self.tokens = tokens


class MinuteWindow:
    """The calls of the last 60 seconds."""

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()

    def wait(self, now: float, tokens: int, limits: Limits) -> float:
        """Seconds until a call of `tokens` tokens may start; 0 means now.

        A call larger than the whole limit runs alone, because otherwise it would wait forever.
        """
        while self._slots and self._slots[0].begun + MINUTE <= now:
            self._slots.popleft()
        calls, used, wait = len(self._slots), sum(slot.tokens for slot in self._slots), 0.0
        most_calls, most_tokens = limits.requests_per_minute, limits.tokens_per_minute
        for slot in self._slots:
            too_many = most_calls is not None and calls >= most_calls
            too_much = most_tokens is not None and used + tokens > most_tokens
            if not too_many and not too_much:
                break
            calls, used, wait = calls - 1, used - slot.tokens, slot.begun + MINUTE - now
        return wait

    def begin(self, now: float, tokens: int) -> Slot:
        """Count a call from `now` on; its tokens may be corrected later."""
        slot = Slot(now, tokens)
        self._slots.append(slot)
        return slot


class Limiter:
    """Keeps calls to one model within its limits, across threads and event loops."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._window = MinuteWindow()
        self._running = 0
        self._queue: deque[Future[None]] = deque()

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """Wait for a slot, first come, first served, and hold it for the duration of the call."""
        await self._take_place()
        try:
            while isinstance(begun := self._begin(tokens), float):
                await asyncio.sleep(begun)
            yield begun
        finally:
            self._leave()

    def _begin(self, tokens: int) -> Slot | float:
        """Start the call, or return the seconds it has to wait."""
        with self._lock:
            now = time.monotonic()
            wait = self._window.wait(now, tokens, self.limits)
            return wait if wait > 0 else self._window.begin(now, tokens)

    async def _take_place(self) -> None:
        place: Future[None] = Future()
        with self._lock:
            self._queue.append(place)
            self._admit()
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            # The slot may have been granted at the moment the waiting task was cancelled.
            if not place.cancel() and not place.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            self._admit()

    def _admit(self) -> None:
        most = self.limits.concurrency
        while self._queue and (most is None or self._running < most):
            place = self._queue.popleft()
            if place.set_running_or_notify_cancel():
                self._running += 1
                place.set_result(None)


_limiters: dict[tuple[str, str], Limiter] = {}
_making = threading.Lock()


def limiter_for(server: str, model: str, limits: Limits | None = None) -> Limiter:
    """The limiter of a model on a server, shared by the whole process.

    Args:
        server: Base URL.
        model: Name of the model.
        limits: New limits, which apply to every client of this model; None keeps the current ones.
    """
    key = (server.rstrip("/"), model)
    with _making:
        limiter = _limiters.setdefault(key, Limiter(limits or Limits()))
    if limits is not None:
        limiter.limits = limits
    return limiter
