"""Pictures on their way out, and in."""

from __future__ import annotations

import base64
import binascii
import io
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lens_reasoner import GeneratedImage, GenerationSettings
from lens_reasoner.media import sniff
from lens_sdk.server.errors import ApiError
from lens_sdk.server.idempotency import remove_older
from lens_sdk.server.limits import ServerLimits

if TYPE_CHECKING:
    from PIL import Image

KEPT_SECONDS = 3600.0
"""How long the address of a picture works."""

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_EXIF_ORIENTATION = 0x0112


class PictureStore:
    """Pictures that callers fetch by address, for an hour."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, image: GeneratedImage, data: bytes, kind: str) -> str:
        """Keep a picture and return its name; PNG files carry how they were made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_older(self._folder, "*", KEPT_SECONDS)
        path = self._folder / f"{secrets.token_urlsafe(24)}{_ENDINGS[kind]}"
        if kind == "png":
            image.save(path)
        else:
            path.write_bytes(data)
        return path.name

    def find(self, name: str) -> Path | None:
        """The file of a name that `put` gave; None if it is gone or never was."""
        path = self._folder / Path(name).name
        return path if path.suffix in MEDIA_TYPES and path.is_file() else None


def encode(image: GeneratedImage, kind: str, quality: int) -> bytes:
    """A picture as a file of another kind; png is the generator's own bytes where they are PNG."""
    if kind == "png":
        return image.png
    return encode_pil(image.image, kind, quality)


def encode_pil(picture: Image.Image, kind: str, quality: int = 90) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    if kind == "png":
        picture.save(buffer, format="PNG")
    else:
        picture.convert("RGB").save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()


def uploaded(text: str, limits: ServerLimits) -> GeneratedImage:
    """A picture that a caller sent, checked before it is decoded and without its EXIF.

    Raises:
        ApiError: It is no picture, too large, animated or damaged.
    """
    try:
        data = base64.b64decode(text.removeprefix("data:").partition("base64,")[2] or text)
    except (binascii.Error, ValueError):
        raise _bad("it is not base64") from None
    if sniff(data) not in {"image/png", "image/jpeg", "image/webp"}:
        raise _bad("it is not a PNG, JPEG or WebP file")
    return GeneratedImage(
        data=_clean(data, limits.upload_pixels),
        seed=None,
        prompt="",
        settings=GenerationSettings(),
        generator="upload",
    )


def _clean(data: bytes, most: int) -> bytes:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        if picture.width * picture.height > most:
            size = f"{picture.width}x{picture.height}"
            raise _bad(f"{size} is more than {most} pixels")
        if getattr(picture, "n_frames", 1) > 1:
            raise _bad("it is animated")
        picture.load()
        exif = picture.getexif()
        if not exif:
            return data
        turned = (
            picture if exif.get(_EXIF_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(picture)
        )
        return encode_pil(turned.convert("RGB"), "png")
    except ApiError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _bad(f"it cannot be decoded: {error}") from error


def _bad(why: str) -> ApiError:
    return ApiError.bad_request(
        f"The picture cannot be used: {why}.", param="image", code="invalid_image"
    )
