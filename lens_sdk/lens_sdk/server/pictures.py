"""Images that the server sends and receives."""

from __future__ import annotations

import base64
import binascii
import io
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lens_reasoner import GeneratedImage, GenerationSettings
from lens_reasoner.media import sniff
from lens_sdk.server.errors import ApiError
from lens_sdk.server.idempotency import remove_older
from lens_sdk.server.limits import ServerLimits

KEPT_SECONDS = 3600.0
"""Seconds for which an image's URL works."""

_SWEEP_SECONDS = 60.0

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_EXIF_ORIENTATION = 0x0112


class PictureStore:
    """Stores images that callers can download from a URL for an hour."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._look_again = 0.0

    def put(self, image: GeneratedImage, data: bytes, kind: str) -> str:
        """Store an image and return its name; PNG files contain how they were made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _SWEEP_SECONDS
            remove_older(self._folder, "*", KEPT_SECONDS)
        path = self._folder / f"{secrets.token_urlsafe(24)}{_ENDINGS[kind]}"
        if kind == "png":
            image.save(path)
        else:
            path.write_bytes(data)
        return path.name

    def find(self, name: str) -> Path | None:
        """Find the file for a name that `put` returned; None if it expired or never existed."""
        path = self._folder / Path(name).name
        return path if path.suffix in MEDIA_TYPES and path.is_file() else None


def encode(image: GeneratedImage, kind: str, quality: int) -> bytes:
    """Encode an image in a file format; a generator's PNG file is used unchanged for png."""
    if kind == "png":
        return image.png
    return encode_pil(image.image, kind, quality)


def encode_pil(picture: Image.Image, kind: str, quality: int = 90) -> bytes:
    """Encode an image in a file format."""
    buffer = io.BytesIO()
    if kind == "png":
        picture.save(buffer, format="PNG")
    else:
        picture.convert("RGB").save(buffer, format=kind.upper(), quality=quality)
    return buffer.getvalue()


def uploaded(text: str, limits: ServerLimits) -> GeneratedImage:
    """Read an image that a caller sent base64-encoded; see `checked_picture`.

    Raises:
        ApiError: The data is not an image, or the image is too large, animated or damaged.
    """
    try:
        data = base64.b64decode(text.removeprefix("data:").partition("base64,")[2] or text)
    except (binascii.Error, ValueError):
        raise _bad("it is not base64") from None
    return GeneratedImage(
        data=checked_picture(data, limits),
        seed=None,
        prompt="",
        settings=GenerationSettings(),
        generator="upload",
    )


def checked_picture(data: bytes, limits: ServerLimits) -> bytes:
    """Check an uploaded image file before decoding it, and remove its EXIF data.

    The content determines the file format. EXIF orientation is applied.

    Raises:
        ApiError: The data is not an image, or the image is too large, animated or damaged.
    """
    if sniff(data) not in {"image/png", "image/jpeg", "image/webp"}:
        raise _bad("it is not a PNG, JPEG or WebP file")
    with _opened(data, limits.upload_pixels, "image") as picture:
        exif = picture.getexif()
        if not exif:
            return data
        turned = exif.get(_EXIF_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(picture) if turned else picture
        return encode_pil(upright.convert("RGB"), "png")


def checked_mask(data: bytes, limits: ServerLimits) -> bytes:
    """Check an uploaded mask before decoding it, and return it as a PNG file without metadata.

    Raises:
        ApiError: The mask is not a PNG file, is too large, animated or damaged, or has no
            transparency.
    """
    if sniff(data) != "image/png":
        raise _bad("it is not a PNG file", "mask")
    with _opened(data, limits.upload_pixels, "mask") as mask:
        if not mask.has_transparency_data:
            raise _bad("it has no transparency, which says what may change", "mask")
        return encode_pil(mask.convert("RGBA"), "png")


@contextmanager
def _opened(data: bytes, most: int, param: str) -> Iterator[Image.Image]:
    """Decode an image after checking its size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        if picture.width * picture.height > most:
            size = f"{picture.width}x{picture.height}"
            raise _bad(f"{size} is more than {most} pixels", param)
        # A phone's photo may contain a second image, such as a depth map.
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            raise _bad("it is animated", param)
        picture.load()
        yield picture
    except UnidentifiedImageError as error:
        raise _bad("it cannot be decoded", param) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _bad(f"it cannot be decoded: {error}", param) from error


def _bad(why: str, param: str = "image") -> ApiError:
    what = "mask" if param == "mask" else "picture"
    return ApiError.bad_request(
        f"The {what} cannot be used: {why}.", param=param, code="invalid_image"
    )
