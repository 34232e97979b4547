"""Detection of the objects in an image of the nano world, without learning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lens_core.nano.scenes import Background
from lens_core.nano.segmentation import Blob, background_colors, find_blobs, split_blob
from lens_core.nano.templates import CHROMA_WEIGHTS, GRID, FloatArray, srgb_to_lab, templates
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS

SCORE_THRESHOLD = 0.5
"""Minimum score at which a blob counts as an object."""
FAR_COLOR = 60.0
"""Lab distance at and above which two colours count as entirely different."""
ASPECT_WEIGHT = 0.6
"""Cost of a shape that is e times too wide or too tall."""
SHAPE_WEIGHT = 1.5
"""Cost of a sample that only one of blob and template covers."""
GOOD_COST = 0.22
"""Cost at or below which a blob is not compared again with a smaller box."""
LIKELY_CLASSES = 3
"""Number of classes to compare again with a smaller box."""
SURE_SCORE = 0.65
"""Score at and above which a blob is not split into several objects."""
FAR_BACKGROUND = 12.0
"""Lab distance above which an edge colour matches none of the known backgrounds."""
SPLIT_GAIN = 0.05
"""How much higher than the whole blob's score the worst part's score must be."""
SMOOTHING = 0.7
"""Radius in pixels of the denoising blur applied before finding blobs."""
CHROMA = 0.5
"""Weight of chroma relative to lightness when finding edges, as chroma bleeds further."""
LEAST_SIDE = 15
"""Minimum length in pixels of an object in a 128 x 128 image."""


@dataclass(frozen=True)
class Detection:
    """One object found in an image.

    Attributes:
        cls: Class name.
        color: Colour of its body.
        box: Left, top, right and bottom in pixels, the last two exclusive.
        area: Number of pixels covered, including holes.
        score: Similarity to the class drawn in that colour, 0 to 1.
    """

    cls: str
    color: str
    box: tuple[int, int, int, int]
    area: int
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def detect(image: Image.Image, threshold: float = SCORE_THRESHOLD) -> list[Detection]:
    """Return the objects in an image, by decreasing score.

    Args:
        image: An image of the nano world, of any size.
        threshold: Minimum score; blobs that resemble no class score below it.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    smooth = rgb.filter(ImageFilter.GaussianBlur(SMOOTHING))
    lab = srgb_to_lab(np.asarray(smooth))
    least = round(LEAST_SIDE * math.sqrt(rgb.width * rgb.height) / 128)
    blobs = find_blobs(lab * np.array([1.0, CHROMA, CHROMA], np.float32), least)
    found = [detection for blob in blobs for detection in _resolve(rgb, lab, blob)]
    return sorted((d for d in found if d.score >= threshold), key=lambda d: -d.score)


def detect_background(image: Image.Image) -> Background | None:
    """Return the background found at an image's edges, or None if it is not a known one."""
    lab = srgb_to_lab(np.asarray(image.convert("RGB")))
    known = srgb_to_lab(np.array(list(BACKGROUNDS.values()), np.uint8))
    distance = np.linalg.norm(background_colors(lab)[:, None] - known, axis=-1)
    if distance.min(axis=1).max() > FAR_BACKGROUND:
        return None
    names = list(BACKGROUNDS)
    upper_left, upper_right, lower_left, lower_right = (names[i] for i in distance.argmin(axis=1))
    if (upper_left, lower_left) == (upper_right, lower_right):
        if upper_left == lower_left:
            return Background(upper_left)
        return Background(upper_left, lower_left, "horizontal")
    if (upper_left, upper_right) == (lower_left, lower_right):
        return Background(upper_left, upper_right, "vertical")
    return None


def _resolve(image: Image.Image, lab: FloatArray, blob: Blob) -> list[Detection]:
    """Classify a blob, or its parts if it looks more like several touching objects."""
    whole = _name(image, blob)
    if whole.score >= SURE_SCORE:
        return [whole]
    left, top, right, bottom = blob.box
    best, best_score = [whole], whole.score + SPLIT_GAIN
    for parts in split_blob(blob, lab[top:bottom, left:right]):
        named = [_name(image, part) for part in parts]
        if min(part.score for part in named) > best_score:
            best, best_score = named, min(part.score for part in named)
    return best


def _name(image: Image.Image, blob: Blob) -> Detection:
    """Compare a blob with every class in every colour."""
    everything = np.arange(len(CLASSES))
    cost = _costs(image, blob, 0, everything)
    if cost.min() > GOOD_COST:
        likely = np.argsort(cost.min(axis=1))[:LIKELY_CLASSES]
        side = min(blob.mask.shape)
        for inset in (n for n in (1, 2) if side >= 12 * n):
            cost[likely] = np.minimum(cost[likely], _costs(image, blob, inset, likely))
    i, j = (int(k) for k in np.unravel_index(int(cost.argmin()), cost.shape))
    score = max(0.0, 1.0 - float(cost[i, j]))
    return Detection(CLASSES[i], list(COLORS)[j], blob.box, blob.area, score)


def _costs(image: Image.Image, blob: Blob, inset: int, classes: NDArray[np.intp]) -> FloatArray:
    """Return the dissimilarity of a blob to classes in all colours, `[len(classes), colours]`.

    A sample covered by only the blob or only the template costs `SHAPE_WEIGHT`; one covered by both
    costs up to 1, depending on colour. The result is the mean over their union. `inset` is the
    number of pixels cut off every side of the blob's box, for images whose objects have a fringe.
    """
    left, top, right, bottom = blob.box
    box = (left + inset, top + inset, right - inset, bottom - inset)
    crop = image.resize((GRID, GRID), Image.Resampling.BILINEAR, box=box)
    lab = srgb_to_lab(np.asarray(crop)) * CHROMA_WEIGHTS
    inner = blob.mask[inset : bottom - top - inset, inset : right - left - inset]
    picture = Image.fromarray(inner.astype(np.uint8) * 255)
    mask = np.asarray(picture.resize((GRID, GRID), Image.Resampling.BILINEAR)) >= 128
    known = templates()
    silhouettes = known.mask[classes]
    both = silhouettes & mask
    union = (silhouettes | mask).sum(axis=(1, 2))
    apart = union - both.sum(axis=(1, 2))
    difference = known.lab[classes] - lab
    distance = np.sqrt(np.einsum("...c,...c->...", difference, difference))
    unlike = np.minimum(distance / FAR_COLOR, 1.0) * both[:, None]
    cost: FloatArray = (unlike.sum(axis=(2, 3)) + SHAPE_WEIGHT * apart[:, None]) / union[:, None]
    aspect = math.log((box[2] - box[0]) / (box[3] - box[1]))
    cost += ASPECT_WEIGHT * np.abs(known.log_aspect[classes] - aspect)[:, None]
    return cost
