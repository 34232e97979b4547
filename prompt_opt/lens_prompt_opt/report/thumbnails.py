"""Thumbnails for embedding in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE = 320
"""In pixels; the page shows images at about half this size."""

_SMALL_PNG = 24_000
"""PNGs up to this many bytes are kept as PNG; larger ones become JPEG."""


class Thumbnails:
    """Makes data URIs of images, up to a total size.

    Args:
        folder: Folder of the images; None if there are none.
        room: Maximum total length of the data URIs, in bytes.
    """

    def __init__(self, folder: Path | None, *, room: int) -> None:
        self._folder = folder
        self._room = room

    def uri(self, name: str) -> str:
        """The image as a data URI; empty if there is no such image, or no room for it."""
        if self._folder is None or not name or Path(name).name != name:
            return ""
        try:
            data, kind = _shrunk(self._folder / name)
        except OSError:
            return ""
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        if len(uri) > self._room:
            return ""
        self._room -= len(uri)
        return uri


def _shrunk(path: Path) -> tuple[bytes, str]:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        image = picture.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    png = _saved(image, "PNG")
    if len(png) <= _SMALL_PNG:
        return png, "png"
    return _saved(image, "JPEG"), "jpeg"


def _saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **({"quality": 84} if kind == "JPEG" else {}))
    return buffer.getvalue()
