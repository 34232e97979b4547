"""Retries of calls to language models; no other module retries them."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from lens_reasoner.errors import ChatError, ChatFault
from lens_reasoner.types import Value

if TYPE_CHECKING:
    from tenacity import RetryCallState

_log = logging.getLogger("lens_reasoner")
_TRANSIENT: frozenset[ChatFault] = frozenset({"connection", "timeout", "rate_limited", "server"})

T = TypeVar("T")


class Deadline:
    """The time left for one call, including its retries."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout

    @property
    def left(self) -> float:
        """Seconds left; infinite while paused."""
        when = self._timeout.when()
        return math.inf if when is None else when - asyncio.get_running_loop().time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock meanwhile."""
        left = self.left
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(asyncio.get_running_loop().time() + left)


class RetryPolicy(Value):
    """How often and how long to retry.

    A call that timed out or lost its connection may have been served and billed all the same. Its
    consumption is unknown, so the usage of a reply covers only the call that returned it.

    Attributes:
        attempts: Maximum number of calls, including the first.
        first_wait: Seconds before the second call. The wait doubles after each call, minus up to 25
            % at random. A server's Retry-After takes precedence, unless it is 0.
        longest_wait: Maximum seconds between two calls, unless the server asks for more.
        timeout: Maximum seconds for one call.
        deadline: Maximum seconds for all calls and waits, including a second request after a
            malformed reply. Waiting for a slot within `Limits` does not count, so a long queue does
            not cause failures; to bound that too, use `LoopLimits.deadline`, or `asyncio.timeout`
            around the call.
    """

    attempts: int = Field(default=4, ge=1)
    first_wait: float = Field(default=0.5, ge=0)
    longest_wait: float = Field(default=20.0, ge=0)
    timeout: float = Field(default=120.0, gt=0)
    deadline: float = Field(default=300.0, gt=0)

    async def run(
        self,
        call: Callable[[Deadline], Awaitable[T]],
        *,
        model: str,
        deadline: Deadline | None = None,
    ) -> T:
        """Call until it succeeds, fails permanently, or runs out of attempts or time.

        Args:
            call: The call; it gets the deadline, so that it can pause it.
            model: Name of the model, for error messages.
            deadline: The deadline of an enclosing operation; None starts a new one.

        Raises:
            ChatError: The last failure, or a timeout if the deadline passes during a call.
        """
        if deadline is None:
            async with self.within_deadline(model) as begun:
                return await self.run(call, model=model, deadline=begun)
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=self._wait,
            stop=lambda state: (
                stop_after_attempt(self.attempts)(state) or state.upcoming_sleep >= deadline.left
            ),
            before_sleep=_log_retry,
            reraise=True,
        )

        # tenacity only awaits coroutine functions, and a lambda is not one.
        async def attempt() -> T:
            return await call(deadline)

        return await retrying(attempt)

    @asynccontextmanager
    async def within_deadline(self, model: str) -> AsyncIterator[Deadline]:
        """Limit the enclosed code to `deadline` seconds.

        Raises:
            ChatError: The time is over; the fault is "timeout".
        """
        try:
            async with asyncio.timeout(self.deadline) as timeout:
                yield Deadline(timeout)
        except TimeoutError as error:
            raise ChatError(
                f"{model!r} gave no reply within the deadline of {self.deadline:g} s.",
                fault="timeout",
                model=model,
                hint="Raise RetryPolicy.deadline, or choose a faster model.",
            ) from error

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ChatError) and error.retry_after:
            return error.retry_after
        doubled = self.first_wait * 2.0 ** (state.attempt_number - 1)
        return min(doubled, self.longest_wait) * random.uniform(0.75, 1.0)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    return isinstance(error, ChatError) and error.fault in _TRANSIENT


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ChatError):
        _log.warning(
            "%s: %s (status %s, request %s); call %d follows in %.1f s",
            error.model,
            error.fault,
            error.status,
            error.request_id,
            state.attempt_number + 1,
            state.upcoming_sleep,
        )
