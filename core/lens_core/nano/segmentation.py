"""Segmentation into blobs: connected pieces whose colours differ from the background's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lens_core.nano.templates import BoolArray, FloatArray, templates

FOREGROUND_DISTANCE = 10.0
"""Lab distance from every background colour above which a pixel belongs to an object."""
FRAME = 3
"""Width in pixels of the frame used to find the background."""
EDGE_SHARE = 0.4
"""Share of a blob's own contrast at which its edge is drawn."""
HIGHEST_EDGE = 18.0
"""Lab distance from the background above which a pixel always belongs to an object."""
WHITE = np.array([99.0, 0.0, 0.0], np.float32)
"""Object colour nearest to the backgrounds; pixels nearer to it than to those are not fringe."""
SEAM = 3
"""Pixels on either side of the image's middle lines where two backgrounds may blend."""
SEED_SHARE = 0.08
"""Minimum share of a blob for a part split from it."""
MERGE_REACH = 2
"""Maximum distance in pixels between a fragment and the blob it is joined to."""


Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Blob:
    """A connected piece of foreground.

    Attributes:
        box: Left, top, right, bottom in pixels, the last two exclusive.
        mask: Which pixels of the box belong to it, holes filled.
    """

    box: tuple[int, int, int, int]
    mask: BoolArray

    @property
    def area(self) -> int:
        """Number of pixels covered."""
        return int(self.mask.sum())


def background_colors(lab: FloatArray) -> FloatArray:
    """Return the background's Lab colour in the four quarters, `[4, 3]`, in row-major order.

    Each is the median along the image's edge, where objects are rare.
    """
    height, width = lab.shape[:2]
    middle = (height // 2, width // 2)
    colors = []
    for rows, edge_rows in ((slice(None, middle[0]), 0), (slice(middle[0], None), 1)):
        for columns, edge_columns in ((slice(None, middle[1]), 0), (slice(middle[1], None), 1)):
            quarter = lab[rows, columns]
            quarter = quarter[:: -1 if edge_rows else 1, :: -1 if edge_columns else 1]
            flat = (quarter[:FRAME].reshape(-1, 3), quarter[FRAME:, :FRAME].reshape(-1, 3))
            colors.append(np.median(np.concatenate(flat), axis=0))
    return np.array(colors, np.float32)


def background_distance(lab: FloatArray) -> FloatArray:
    """Return each pixel's Lab distance to the nearest background colour or seam blend."""
    height, width = lab.shape[:2]
    colors = background_colors(lab)
    distance = np.full((height, width), np.inf, np.float32)
    for color in _distinct(colors):
        distance = np.minimum(distance, _norm(lab - color))
    for a, b, axis in ((0, 2, 0), (1, 3, 0), (0, 1, 1), (2, 3, 1)):
        step = colors[b] - colors[a]
        length = float(step @ step)
        if length < 16:
            continue
        middle = (height if axis == 0 else width) // 2
        band = slice(middle - SEAM, middle + SEAM)
        where = (band, slice(None)) if axis == 0 else (slice(None), band)
        offset = lab[where] - colors[a]
        share = np.clip(offset @ step / length, 0, 1)[..., None]
        distance[where] = np.minimum(distance[where], _norm(offset - share * step))
    return distance


def find_blobs(lab: FloatArray, least_side: int) -> list[Blob]:
    """Return connected pieces far from the background, with their holes filled.

    Args:
        lab: The image, `[height, width, 3]`; edges are sharpest if its chroma is scaled down.
        least_side: Pixels; shorter fragments join a larger piece nearby or are dropped.
    """
    distance = background_distance(lab)
    noise = float(np.median(distance))
    mask = _closed(distance > max(FOREGROUND_DISTANCE, 3 * noise))
    solid = _remove_fringes(distance, mask, _norm(lab - WHITE) < distance)
    labels, count = _label(solid)
    if count == 0:
        return []
    boxes = ndimage.find_objects(labels)
    sides = [max(box[0].stop - box[0].start, box[1].stop - box[1].start) for box in boxes]
    big = [i + 1 for i in range(count) if sides[i] >= least_side]
    _join_fragments(labels, boxes, set(big))
    return [blob for blob in (_cut(labels == label) for label in big) if blob is not None]


def split_blob(blob: Blob, lab: FloatArray) -> list[list[Blob]]:
    """Propose ways to split a blob into several touching objects.

    Args:
        blob: The blob.
        lab: The image inside the blob's box, `[h, w, 3]`.

    Returns:
        Proposals of two or more parts: split by body colour, and at necks of increasing width.
    """
    nearest = np.stack([_norm(lab - color) for color in templates().palette]).argmin(axis=0)
    seeds = np.zeros(blob.mask.shape, np.int32)
    for index in range(len(templates().palette)):
        piece = ndimage.binary_opening(blob.mask & (nearest == index))
        labels, count = _label(piece)
        for label in range(1, count + 1):
            if (labels == label).sum() >= SEED_SHARE * blob.area:
                seeds[labels == label] = seeds.max() + 1
    proposals = [seeds]
    eroded, seen = blob.mask, 1
    for _ in range(min(blob.mask.shape) // 4):
        eroded = ndimage.binary_erosion(eroded)
        labels, count = _label(eroded)
        if count > seen:
            proposals.append(labels)
            seen = count
    return [parts for parts in (_grow(blob, labels) for labels in proposals) if len(parts) > 1]


def _grow(blob: Blob, seeds: Labels) -> list[Blob]:
    """Assign every pixel of a blob to the nearest seed; seeds are labelled from 1."""
    count = int(seeds.max())
    if count < 2:
        return []
    rows, columns = ndimage.distance_transform_edt(
        seeds == 0, return_distances=False, return_indices=True
    )
    owner = np.where(blob.mask, seeds[rows, columns], 0)
    parts = []
    for label in range(1, count + 1):
        part = _cut(owner == label)
        if part is not None and part.area >= SEED_SHARE * blob.area:
            left, top, right, bottom = part.box
            x, y = blob.box[:2]
            parts.append(Blob((left + x, top + y, right + x, bottom + y), part.mask))
    return parts


def _remove_fringes(distance: FloatArray, mask: BoolArray, sure: BoolArray) -> BoolArray:
    """Trim blobs to pixels that are sure or that exceed a share of the blob's own contrast.

    Blur and compression surround objects with a pale fringe; the true edge lies partway up it.
    """
    labels, _ = _label(mask)
    out = np.zeros_like(mask)
    for index, box in enumerate(ndimage.find_objects(labels)):
        piece = labels[box] == index + 1
        contrast = float(np.percentile(distance[box][piece], 80))
        edge = min(EDGE_SHARE * contrast, HIGHEST_EDGE)
        kept = piece & (sure[box] | (distance[box] > edge))
        out[box] |= ndimage.binary_fill_holes(_closed(kept))
    return out


def _closed(mask: BoolArray) -> BoolArray:
    """Bridge cracks one or two pixels wide.

    In a blurred image, the transition from a white body to its dark outline passes through the
    background's tone.
    """
    return mask | ndimage.binary_closing(mask)


def _join_fragments(labels: Labels, boxes: Sequence[tuple[slice, ...]], big: set[int]) -> None:
    """Give every small piece the label of the large piece it nearly touches."""
    for index, box in enumerate(boxes):
        if index + 1 in big:
            continue
        rows = slice(max(box[0].start - MERGE_REACH, 0), box[0].stop + MERGE_REACH)
        columns = slice(max(box[1].start - MERGE_REACH, 0), box[1].stop + MERGE_REACH)
        near = labels[rows, columns]
        touched = [label for label in np.unique(near) if label in big]
        if touched:
            largest = max(touched, key=lambda label: int((near == label).sum()))
            piece = labels[box]
            piece[piece == index + 1] = largest


def _label(mask: BoolArray) -> tuple[Labels, int]:
    """Number connected pieces from 1; pixels touching at a corner are connected."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), np.int8))
    return labels.astype(np.int32), int(count)


def _cut(mask: BoolArray) -> Blob | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    inside = ndimage.binary_fill_holes(mask[top:bottom, left:right])
    return Blob((left, top, right, bottom), inside)


def _distinct(colors: FloatArray) -> list[FloatArray]:
    kept: list[FloatArray] = []
    for color in colors:
        if all(float(np.linalg.norm(color - other)) > 2 for other in kept):
            kept.append(color)
    return kept


def _norm(values: FloatArray) -> FloatArray:
    out: FloatArray = np.sqrt(np.einsum("...c,...c->...", values, values))
    return out
