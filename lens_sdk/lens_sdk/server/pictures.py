"""Pictures on their way out, and in."""

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
"""How long the address of a picture works."""

_SWEEP_SECONDS = 60.0

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_EXIF_ORIENTATION = 0x0112


class PictureStore:
    """Pictures that callers fetch by address, for an hour."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._look_again = 0.0

    def put(self, image: GeneratedImage, data: bytes, kind: str) -> str:
        """Keep a picture and return its name; PNG files carry how they were made."""
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
    """A picture that a caller sent in base64; see `checked_picture`.

    Raises:
        ApiError: It is no picture, too large, animated or damaged.
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
    """A picture file that a caller sent, checked before it is decoded and without its EXIF.

    What it is, is told by its content; a turned one is put upright.

    Raises:
        ApiError: It is no picture, too large, animated or damaged.
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
    """A mask that a caller sent, checked before it is decoded, as PNG with nothing but pixels.

    Raises:
        ApiError: It is no PNG file, too large, animated, damaged or without transparency.
    """
    if sniff(data) != "image/png":
        raise _bad("it is not a PNG file", "mask")
    with _opened(data, limits.upload_pixels, "mask") as mask:
        if not mask.has_transparency_data:
            raise _bad("it has no transparency, which says what may change", "mask")
        return encode_pil(mask.convert("RGBA"), "png")


@contextmanager
def _opened(data: bytes, most: int, param: str) -> Iterator[Image.Image]:
    """The decoded picture; its size is looked at before."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        if picture.width * picture.height > most:
            size = f"{picture.width}x{picture.height}"
            raise _bad(f"{size} is more than {most} pixels", param)
        # A photograph of a telephone may hold a second one, such as a map of depths.
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
