"""Fitting image files to buckets: full decoding, rotation to upright, downscaling and cropping."""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lens_core.data.buckets import Bucket
from lens_core.data.errors import UnfitImageError, UnreadableImageError

Crop = Literal["centre", "top", "random"]


@dataclass(frozen=True)
class CropPolicy:
    """Which part of an image to keep.

    Attributes:
        place: `centre`; `top`, where heads are; or `random`, determined by the image's content.
        most_cut: Maximum share of the scaled image's area that may be cropped.
    """

    place: Crop = "centre"
    most_cut: float = 0.3


@dataclass(frozen=True)
class Fitted:
    """An image of a bucket's size.

    Attributes:
        image: RGB.
        original: Width and height of the upright source in pixels.
        box: Left, top, right and bottom of the kept part, in pixels of the source.
    """

    image: Image.Image
    original: tuple[int, int]
    box: tuple[float, float, float, float]


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode a complete image: upright, RGB, with transparency on white.

    Raises:
        UnreadableImageError: It is not an image, damaged, animated or far too large.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise UnreadableImageError(f"{name} is animated; give a still picture")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image) or image)
    except UnreadableImageError:
        raise
    except Exception as error:  # On damaged files, Pillow may raise any type of exception.
        raise UnreadableImageError(f"{name} cannot be read as a picture: {error}") from error


def fit(image: Image.Image, bucket: Bucket, crop: CropPolicy, content_hash: str) -> Fitted:
    """Scale an image down until it just covers a bucket, and crop the rest.

    Args:
        image: RGB, at least as large as the bucket.
        bucket: Its bucket.
        crop: How much may be cropped, and where.
        content_hash: Hexadecimal; determines random crops.

    Raises:
        UnfitImageError: The crop would exceed what the policy allows.
    """
    width, height = image.size
    scale = max(bucket.width / width, bucket.height / height)
    kept = (bucket.width / scale, bucket.height / scale)
    cut = 1 - kept[0] * kept[1] / (width * height)
    if cut > crop.most_cut + 1e-9:
        raise UnfitImageError(
            f"a picture of {width}x{height} would lose {cut:.0%} of its area in bucket "
            f"{bucket.width}x{bucket.height}; at most {crop.most_cut:.0%} may be cut off"
        )
    across, down = _shares(crop.place, content_hash)
    left, top = (width - kept[0]) * across, (height - kept[1]) * down
    box = (left, top, min(width, left + kept[0]), min(height, top + kept[1]))
    fitted = image
    if image.size != (bucket.width, bucket.height):
        fitted = image.resize((bucket.width, bucket.height), Image.Resampling.LANCZOS, box)
    return Fitted(fitted, (width, height), box)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the bytes `[height, width, 3]` of an RGB image."""
    return np.array(image, dtype=np.uint8)


def _shares(place: Crop, digest: str) -> tuple[float, float]:
    """Return the shares of the surplus to crop on the left and at the top."""
    if place == "centre":
        return 0.5, 0.5
    if place == "top":
        return 0.5, 0.0
    words = int(digest[:8], 16), int(digest[8:16], 16)
    return words[0] / 0xFFFFFFFF, words[1] / 0xFFFFFFFF


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Convert greyscale images of more than eight bits, whose high bits Pillow would cut off."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if not math.isfinite(float(values.sum())) or values.min() < 0 or values.max() > top:
        raise UnreadableImageError(f"grey values of mode {image.mode} lie outside 0 to {top:g}")
    return Image.fromarray((values / top * 255).round().astype(np.uint8)).convert("RGB")
