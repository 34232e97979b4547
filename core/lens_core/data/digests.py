"""SHA-256 of files, folders and texts, in hexadecimal."""

import hashlib
from pathlib import Path

_LEFT_BEHIND = {"thumbs.db", "desktop.ini"}
"""By Windows' file manager; that of macOS hides what it leaves."""


def content_hash(content: bytes) -> str:
    """SHA-256 of a picture file's bytes."""
    return hashlib.sha256(content).hexdigest()


def text_hash(text: str) -> str:
    """SHA-256 of a caption."""
    return content_hash(text.encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_files(folder: Path) -> list[Path]:
    """The files below a folder, by name, but for hidden ones and what file managers leave there."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name.casefold() not in _LEFT_BEHIND
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def listing_hash(folder: Path, without: Path | None = None) -> str:
    """Over the names, sizes and times of a folder's files, as `own_files` finds them.

    Args:
        folder: With all folders in it.
        without: A folder that does not count, if it lies there.
    """
    digest = hashlib.sha256()
    for path in own_files(folder):
        if without is None or without.resolve() not in path.resolve().parents:
            status = path.stat()
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
