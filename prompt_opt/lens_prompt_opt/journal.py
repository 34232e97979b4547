"""Every result is on disk before it is used, so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lens_prompt_opt.errors import RunDirectoryError
from lens_reasoner.atomic import append_line, write_atomically
from lens_reasoner.image import GeneratedImage

JsonRecord = dict[str, Any]


class Journal(Protocol):
    """Stores the results of calls, by a key made of everything they depend on."""

    def get(self, key: str) -> JsonRecord | None:
        """The result stored under `key`; None if there is none."""
        ...

    def put(self, key: str, record: JsonRecord) -> None:
        """Store a result; once this returns, no crash can lose it."""
        ...

    def put_picture(self, image: GeneratedImage) -> str:
        """Store an image's bytes and return their name."""
        ...

    def picture(self, name: str) -> bytes:
        """The bytes of a stored image."""
        ...


def call_key(stage: str, *parts: object) -> str:
    """A key for a call of `stage`, made of everything that its result depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return f"{stage}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class MemoryJournal:
    """Stores results in memory, for as long as the process runs."""

    def __init__(self) -> None:
        self._records: dict[str, JsonRecord] = {}
        self._pictures: dict[str, bytes] = {}

    def get(self, key: str) -> JsonRecord | None:
        """See `Journal.get`."""
        return self._records.get(key)

    def put(self, key: str, record: JsonRecord) -> None:
        """See `Journal.put`."""
        self._records[key] = record

    def put_picture(self, image: GeneratedImage) -> str:
        """See `Journal.put_picture`."""
        self._pictures[image.sha256] = image.data
        return image.sha256

    def picture(self, name: str) -> bytes:
        """See `Journal.picture`."""
        return self._pictures[name]


class DiskJournal:
    """`calls.jsonl` and `pictures/` in a run directory; each entry is synced to disk before use."""

    def __init__(self, folder: Path) -> None:
        """Read the existing entries; an incomplete last line is dropped.

        Raises:
            RunDirectoryError: The directory cannot be used, or an entry is damaged.
        """
        self._pictures = folder / "pictures"
        self._path = folder / "calls.jsonl"
        try:
            self._pictures.mkdir(parents=True, exist_ok=True)
            self._records = dict(_read(self._path))
            self._file = self._path.open("ab", buffering=0)
        except RunDirectoryError:
            raise
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory {str(folder)!r} cannot be used: {error}.",
                hint="Choose a folder that can be written.",
            ) from error

    def __len__(self) -> int:
        """Number of stored results."""
        return len(self._records)

    def get(self, key: str) -> JsonRecord | None:
        """See `Journal.get`."""
        return self._records.get(key)

    def put(self, key: str, record: JsonRecord) -> None:
        """See `Journal.put`."""
        line = json.dumps({"key": key, "record": record}, ensure_ascii=False, allow_nan=False)
        append_line(self._file, line.encode() + b"\n")
        self._records[key] = record

    def put_picture(self, image: GeneratedImage) -> str:
        """See `Journal.put_picture`."""
        name = f"{image.sha256}.{image.media_type.partition('/')[2]}"
        path = self._pictures / name
        if not path.exists():
            write_atomically(path, image.data)
        return name

    def picture(self, name: str) -> bytes:
        """See `Journal.picture`."""
        return (self._pictures / name).read_bytes()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read(path: Path) -> Iterator[tuple[str, JsonRecord]]:
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                file.truncate(whole)
                os.fsync(file.fileno())
                return
            whole += len(line)
            try:
                entry = json.loads(line)
                yield entry["key"], entry["record"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RunDirectoryError(
                    f"Line {number} of {str(path)!r} is damaged: {error}.",
                    hint="Remove the line; its call is then made again.",
                ) from error
