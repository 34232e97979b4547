"""Who works on what, among all processes that serve from one folder."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.25
"""How often processes look for what others left for them."""

_TRIES = 5
_FRESH_SECONDS = 8 * POLL_SECONDS


@dataclass(frozen=True)
class Claim:
    """The right to work on something, until it is let go or the process ends."""

    lock: FileLock

    def let_go(self) -> None:
        """Let others have it."""
        self.lock.release()


class Claims:
    """Claims on names, as locked files of a folder.

    The operating system takes the locks of a process that dies, however it dies, so that others go
    on. Beside a name's lock lie marks by which processes tell each other something about it. The
    folder must be on one machine, or on a shared file system that locks files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str) -> Claim | None:
        """The claim on a name; None if somebody has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.lock"
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        # Old files are swept away, and this one is young again.
        with suppress(OSError):
            os.utime(path)
        return Claim(lock)

    async def take_soon(self, name: str) -> Claim | None:
        """The claim on a name, even if somebody just looks whether it is taken."""
        for _ in range(_TRIES):
            claim = self.take(name)
            if claim is not None:
                return claim
            await asyncio.sleep(POLL_SECONDS / _TRIES)
        return None

    def taken(self, name: str) -> bool:
        """Whether somebody has the claim on a name."""
        if not (self._folder / f"{name}.lock").exists():
            return False
        claim = self.take(name)
        if claim is None:
            return True
        claim.let_go()
        return False

    def mark(self, name: str, mark: str) -> None:
        """Leave a mark for whoever has the claim, or make it young again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{name}.{mark}").touch()

    def marked(self, name: str, mark: str) -> bool:
        """Whether there is such a mark."""
        return (self._folder / f"{name}.{mark}").exists()

    def freshly_marked(self, name: str, mark: str) -> bool:
        """Whether there is such a mark, left moments ago."""
        try:
            age = time.time() - (self._folder / f"{name}.{mark}").stat().st_mtime
        except OSError:
            return False
        return age < _FRESH_SECONDS

    def unmark(self, name: str, mark: str) -> None:
        """Take a mark away."""
        (self._folder / f"{name}.{mark}").unlink(missing_ok=True)
