"""Picture files to pixels of a bucket: decoded whole, turned upright, scaled down, cropped."""

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
    """Which part of a picture is kept.

    Attributes:
        place: `centre`; `top`, where heads are; `random`, decided by the picture's content.
        most_cut: Share of the scaled picture's area that may be cut off.
    """

    place: Crop = "centre"
    most_cut: float = 0.3


@dataclass(frozen=True)
class Fitted:
    """A picture of a bucket's size.

    Attributes:
        image: RGB.
        original: Width and height of the upright source in pixels.
        box: Left, top, right and bottom of the kept part, in pixels of the source.
    """

    image: Image.Image
    original: tuple[int, int]
    box: tuple[float, float, float, float]


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode a picture to its end: upright, RGB, transparency on white.

    Raises:
        UnreadableImageError: It is no picture, damaged, animated, or absurdly large.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise UnreadableImageError(f"{name} is animated; give a still picture")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image) or image)
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to.
        raise UnreadableImageError(f"{name} cannot be read as a picture: {error}") from error


def fit(image: Image.Image, bucket: Bucket, crop: CropPolicy, content_hash: str) -> Fitted:
    """Scale a picture down until it just covers a bucket, and cut the rest off.

    Args:
        image: RGB, at least as large as the bucket.
        bucket: Its bucket.
        crop: What may be cut off, and where.
        content_hash: Hexadecimal; decides random crops.

    Raises:
        UnfitImageError: More would be cut off than the policy allows.
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
    """Bytes `[height, width, 3]` of an RGB picture."""
    return np.array(image, dtype=np.uint8)


def _shares(place: Crop, digest: str) -> tuple[float, float]:
    """Share of the surplus that is cut off on the left and at the top."""
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
    """Grey pictures of more than eight bits; Pillow alone would cut the high bits off."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if not math.isfinite(float(values.sum())) or values.min() < 0 or values.max() > top:
        raise UnreadableImageError(f"grey values of mode {image.mode} lie outside 0 to {top:g}")
    return Image.fromarray((values / top * 255).round().astype(np.uint8)).convert("RGB")
