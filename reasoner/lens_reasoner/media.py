"""The format of an image file, determined by its first bytes."""

from __future__ import annotations

from typing import Literal

MediaType = Literal["image/png", "image/jpeg", "image/webp", "image/gif"]

SUFFIXES: dict[MediaType, str] = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
}
"""File suffixes by media type."""


def sniff(data: bytes) -> MediaType | None:
    """The media type of an image file; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return None
