"""Files that are there as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

_WAITS = (0.01, 0.03, 0.1, 0.3, 0.6)
"""Seconds between tries to replace a file that another program has open on Windows."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers, other writers and a crash never meet half of it.

    Args:
        path: The file; missing folders are made, and a file that is there is replaced.
        data: All it holds.
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
            # There readers, virus scanners and indexers keep others off for a moment.
            if getattr(error, "winerror", None) is None:
                raise
            time.sleep(wait)
    partial.replace(path)


def append_line(file: FileIO, line: bytes) -> None:
    """Add a line to a file opened for appending without a buffer; on return it is on the disk.

    Raises:
        OSError: If it cannot be written, such as on a full disk; then nothing of it stays.
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
    """Make the names in a folder survive a power failure, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
