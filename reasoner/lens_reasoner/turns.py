"""Blocking code run one call at a time, without a thread for each call that waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from lens_reasoner.limits import Limiter, Limits

T = TypeVar("T")


class Turns:
    """Runs work in a worker thread, one piece at a time, first come, first served.

    Who waits for a turn holds no thread. Python keeps few of them and looks up the addresses of
    servers in the same ones, so calls that waited in threads would hold up all others.
    """

    def __init__(self) -> None:
        self._queue = Limiter(Limits(concurrency=1))
        self._working = threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns. If the waiting task is cancelled, work that has begun goes on."""
        async with self._queue.slot(0):
            return await asyncio.to_thread(self._alone, work)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._working:
            return work()
