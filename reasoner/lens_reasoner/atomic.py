"""Writing files atomically: readers see the whole file or none, whatever interrupts the write."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

_WAITS = (0.01, 0.03, 0.1, 0.3, 0.6)
"""Seconds between attempts to replace a file that another program has open on Windows."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers, other writers and a crash never see it half-written.

    Args:
        path: The file; missing folders are created, and an existing file is replaced.
        data: The whole content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _put_in_place(partial: Path, path: Path) -> None:
    for wait in _WAITS:
        try:
            partial.replace(path)
            return
        except PermissionError as error:
            # Windows: readers, virus scanners and indexers block a file for a moment.
            if getattr(error, "winerror", None) is None:
                raise
            time.sleep(wait)
    partial.replace(path)


def append_line(file: FileIO, line: bytes) -> None:
    """Append a line to a file opened unbuffered for appending; it is on disk on return.

    Raises:
        OSError: It cannot be written, for example on a full disk; the file is then unchanged.
    """
    end = os.fstat(file.fileno()).st_size
    left = memoryview(line)
    try:
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(file.fileno(), end)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the system supports it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
