"""Files that are there as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path


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
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


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
