"""Template images of every class in every colour on a common grid, to compare blobs with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from lens_core.nano.sprites import master_sprite
from lens_core.nano.vocabulary import CLASSES, COLORS, EXTENT

GRID = 32
"""Side in samples to which blobs and templates are scaled."""

SOFTNESS = 1.0
"""Blur of the templates in grid samples, halfway between sharp and decoded images."""

CHROMA_WEIGHTS = np.array([1.0, 0.7, 0.7], np.float32)
"""Weights of L, a and b when comparing colours; compression affects chroma most."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def srgb_to_lab(rgb: NDArray[np.uint8]) -> FloatArray:
    """Convert 8-bit sRGB, `[..., 3]`, to CIE L*a*b* with white point D65."""
    linear = _LINEAR[rgb]
    ratio = linear @ _TO_XYZ
    root = np.where(
        ratio > 0.008856, np.cbrt(ratio), ratio * np.float32(7.787) + np.float32(16 / 116)
    )
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def _linear_table() -> FloatArray:
    value = np.arange(256) / 255
    out = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return out.astype(np.float32)


_LINEAR = _linear_table()
_TO_XYZ = (
    np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    / np.array([[0.95047], [1.0], [1.08883]])
).T.astype(np.float32)


@dataclass(frozen=True)
class Templates:
    """Templates of all classes in all colours.

    Attributes:
        lab: Colours times `CHROMA_WEIGHTS`, `[class, colour, GRID, GRID, 3]`.
        mask: Silhouettes with holes filled, `[class, GRID, GRID]`.
        log_aspect: Logarithm of width over height, `[class]`.
        palette: The body colours in Lab, `[colour, 3]`.
    """

    lab: FloatArray
    mask: BoolArray
    log_aspect: FloatArray
    palette: FloatArray


@lru_cache(maxsize=1)
def templates() -> Templates:
    """Draw all templates once."""
    palette = srgb_to_lab(np.array(list(COLORS.values()), np.uint8))
    lab = np.zeros((len(CLASSES), len(COLORS), GRID, GRID, 3), np.float32)
    mask = np.zeros((len(CLASSES), GRID, GRID), np.bool_)
    for i, cls in enumerate(CLASSES):
        for j, color in enumerate(COLORS):
            picture = master_sprite(cls, color).resize((GRID, GRID), Image.Resampling.BOX)
            mask[i] = ndimage.binary_fill_holes(np.asarray(picture)[..., 3] >= 128)
            lab[i, j] = srgb_to_lab(_softened(picture)) * CHROMA_WEIGHTS
    aspects = np.array([EXTENT[cls][0] / EXTENT[cls][1] for cls in CLASSES])
    return Templates(lab, mask, np.log(aspects).astype(np.float32), palette)


def _softened(picture: Image.Image) -> NDArray[np.uint8]:
    """Blur a template's colours slightly, without mixing in what lies outside it."""
    blurred = picture.convert("RGBa").filter(ImageFilter.GaussianBlur(SOFTNESS))
    return np.asarray(blurred.convert("RGBA"))[..., :3]
