"""A lock that threads get in the order in which they ask for it."""

from __future__ import annotations

import threading
from collections import deque


class TurnLock:
    """A reentrant lock for one thread at a time.

    Unlike `threading.RLock`, it goes to the thread that has waited longest. Threads that take it
    repeatedly, such as one generating step by step and one writing draft by draft, take turns.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        """Acquire the lock."""
        me = threading.get_ident()
        with self._mutex:
            if self._owner in {None, me}:
                self._owner = me
                self._depth += 1
                return
            turn = me, threading.Event()
            self._waiting.append(turn)
        try:
            turn[1].wait()
        except BaseException:
            # Ctrl-C in the main thread: the lock must not go to a thread that stopped waiting.
            with self._mutex:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._hand_on()
            raise

    def __exit__(self, *_: object) -> None:
        """Release the lock to the next thread."""
        with self._mutex:
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        if not self._waiting:
            self._owner, self._depth = None, 0
            return
        self._owner, turn = self._waiting.popleft()
        self._depth = 1
        turn.set()
