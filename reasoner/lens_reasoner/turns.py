"""Blocking code that runs one call at a time, without a waiting thread per call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from lens_reasoner.limits import Limiter, Limits

T = TypeVar("T")


class Turns:
    """Runs work in a worker thread, one call at a time, first come, first served.

    Waiting for a turn takes no thread. Python's default executor has few threads and also uses them
    to look up server addresses, so calls that waited in threads would delay everything else.
    """

    def __init__(self) -> None:
        self._queue = Limiter(Limits(concurrency=1))
        self._working = threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` and return its result; cancelling the caller does not stop work once begun."""
        async with self._queue.slot(0):
            return await asyncio.to_thread(self._alone, work)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._working:
            return work()
