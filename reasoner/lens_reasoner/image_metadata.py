"""Metadata of saved images: inside a PNG file, or in a JSON file beside it.

PNG files take text chunks without a change to their pixels. All other images are written byte for
byte: changing a byte would break the signature of images with provenance (C2PA), and other formats
have no place for text that survives. Their metadata goes into a JSON file with the image's name
plus ".json".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lens_reasoner import png
from lens_reasoner.atomic import write_atomically
from lens_reasoner.errors import ImageFileError
from lens_reasoner.media import SUFFIXES, MediaType

METADATA_KEY = "lens_sdk"
PARAMETERS_KEY = "parameters"
_PROVENANCE_CHUNK = b"caBX"


def write_picture(
    path: str | Path, data: bytes, media_type: MediaType, metadata: Mapping[str, Any], summary: str
) -> Path:
    """Write an image with its metadata; the suffix is made to match the format.

    Args:
        path: Where to write; missing folders are created.
        data: The image file.
        media_type: Its media type.
        metadata: JSON values that say how it was made.
        summary: The same, as image viewers read it.

    Returns:
        The file that was written.
    """
    target = _target(Path(path), media_type)
    text = json.dumps(metadata, allow_nan=False)
    if takes_text(data, media_type):
        write_atomically(
            target, png.write_text(data, {PARAMETERS_KEY: summary, METADATA_KEY: text})
        )
        sidecar(target).unlink(missing_ok=True)
    else:
        write_atomically(sidecar(target), text.encode())
        write_atomically(target, data)
    return target


def read_picture(path: str | Path) -> tuple[bytes, dict[str, Any]]:
    """The image as it was before saving, and its metadata.

    Raises:
        ImageFileError: The file has no readable metadata, inside or beside it.
    """
    path = Path(path)
    data, beside = path.read_bytes(), sidecar(path)
    if beside.is_file():
        metadata = _parse(beside.read_text(encoding="utf-8"), path)
        if metadata.get("sha256") != hashlib.sha256(data).hexdigest():
            raise ImageFileError(
                f"{beside} describes another image than {path}.",
                hint="The image was changed or replaced after it was saved.",
            )
        return data, metadata
    text = png.read_text(data).get(METADATA_KEY)
    if text is None:
        raise ImageFileError(
            f"{path} has no '{METADATA_KEY}' metadata and there is no {beside.name} beside it.",
            hint="Only images that GeneratedImage.save wrote, and that no other program re-saved, "
            "can be loaded; keep the .json file of an image beside it.",
        )
    return png.remove_text(data, (METADATA_KEY, PARAMETERS_KEY)), _parse(text, path)


def sidecar(path: Path) -> Path:
    """Path of the JSON file beside an image."""
    return path.with_name(path.name + ".json")


def takes_text(data: bytes, media_type: MediaType) -> bool:
    """Whether metadata goes into the image file itself."""
    return media_type == "image/png" and not png.has_chunk(data, _PROVENANCE_CHUNK)


def _target(path: Path, media_type: MediaType) -> Path:
    endings = {".jpg", ".jpeg"} if media_type == "image/jpeg" else {SUFFIXES[media_type]}
    if path.suffix.lower() in endings:
        return path
    if path.suffix.lower() in {".jpeg", *SUFFIXES.values()}:
        return path.with_suffix(SUFFIXES[media_type])
    # A PNG may have any name.
    return path if media_type == "image/png" else path.with_name(path.name + SUFFIXES[media_type])


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise TypeError(f"{type(metadata).__name__} instead of an object")
    except (ValueError, TypeError) as error:
        raise ImageFileError(
            f"The '{METADATA_KEY}' metadata of {path} cannot be read: {error}",
            hint="It was written by another version, or changed by another program.",
        ) from error
    return metadata
