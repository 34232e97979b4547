"""SHA-256 of files, folders and texts, in hexadecimal."""

import hashlib
from pathlib import Path

_LEFT_BEHIND = {"thumbs.db", "desktop.ini"}
"""Files left by Windows Explorer; those of the macOS Finder are hidden files."""


def content_hash(content: bytes) -> str:
    """SHA-256 of an image file's bytes."""
    return hashlib.sha256(content).hexdigest()


def text_hash(text: str) -> str:
    """SHA-256 of a caption."""
    return content_hash(text.encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_files(folder: Path) -> list[Path]:
    """Return the files below a folder, by name, except hidden and file-manager files."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name.casefold() not in _LEFT_BEHIND
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def listing_hash(folder: Path, without: Path | None = None) -> str:
    """Hash the names, sizes and times of the files that `own_files` finds in a folder.

    Args:
        folder: The folder, including all its subfolders.
        without: A subfolder to exclude.
    """
    digest = hashlib.sha256()
    for path in own_files(folder):
        if without is None or without.resolve() not in path.resolve().parents:
            status = path.stat()
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
