"""Assigns work among all processes that serve from one folder."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.25
"""Seconds between a process's checks for marks and files from other processes."""

_TRIES = 5
_FRESH_SECONDS = 8 * POLL_SECONDS


@dataclass(frozen=True)
class Claim:
    """The exclusive right to work on something until it is released or the process ends."""

    lock: FileLock

    def let_go(self) -> None:
        """Release the claim."""
        self.lock.release()


class Claims:
    """Claims on names, implemented as locked files in a folder.

    When a process dies for any reason, the operating system releases its locks, so that others can
    continue. Next to a name's lock, processes leave marks to notify each other. The folder must be
    used by one machine only, or be on a shared file system that supports file locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str) -> Claim | None:
        """Claim a name; None if it is already claimed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.lock"
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        # Old files are removed regularly, so refresh this one's modification time.
        with suppress(OSError):
            os.utime(path)
        return Claim(lock)

    async def take_soon(self, name: str) -> Claim | None:
        """Claim a name, retrying briefly because `taken` in another process also holds the lock."""
        for _ in range(_TRIES):
            claim = self.take(name)
            if claim is not None:
                return claim
            await asyncio.sleep(POLL_SECONDS / _TRIES)
        return None

    def taken(self, name: str) -> bool:
        """Whether a name is claimed."""
        if not (self._folder / f"{name}.lock").exists():
            return False
        claim = self.take(name)
        if claim is None:
            return True
        claim.let_go()
        return False

    def mark(self, name: str, mark: str) -> None:
        """Leave a mark for the holder of the claim, or refresh an existing one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{name}.{mark}").touch()

    def marked(self, name: str, mark: str) -> bool:
        """Whether the mark exists."""
        return (self._folder / f"{name}.{mark}").exists()

    def freshly_marked(self, name: str, mark: str) -> bool:
        """Whether the mark exists and was left or refreshed moments ago."""
        try:
            age = time.time() - (self._folder / f"{name}.{mark}").stat().st_mtime
        except OSError:
            return False
        return age < _FRESH_SECONDS

    def unmark(self, name: str, mark: str) -> None:
        """Remove a mark."""
        (self._folder / f"{name}.{mark}").unlink(missing_ok=True)
