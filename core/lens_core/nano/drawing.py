"""Rendering of scenes: anti-aliased flat objects, and the label maps of an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_core.nano.scenes import Scene, SceneObject, pixel_size
from lens_core.nano.sprites import master_sprite
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS

TOKEN_CELL = 16
"""Side in pixels of the image area that one latent token covers."""
COVERAGE = 0.25
"""Share of a cell that an object must cover to own it."""

LabelMap = NDArray[np.int8]


@lru_cache(maxsize=4096)
def sprite(cls: str, color: str, size: int) -> Image.Image:
    """Return an RGBA image of one object whose longest side, outline included, is `size`."""
    return master_sprite(cls, color).resize(pixel_size(cls, size), Image.Resampling.BOX)


@lru_cache(maxsize=1024)
def alpha(cls: str, size: int) -> NDArray[np.float32]:
    """Return the coverage of each pixel in an object's box, `[h, w]` from 0 to 1."""
    channel = np.asarray(sprite(cls, "red", size))[..., 3]
    return (channel / 255.0).astype(np.float32)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of its size."""
    background = scene.background
    image = Image.new("RGB", (scene.width, scene.height), BACKGROUNDS[background.color])
    if background.second is not None:
        box = (
            (0, scene.height // 2, scene.width, scene.height)
            if background.split == "horizontal"
            else (scene.width // 2, 0, scene.width, scene.height)
        )
        image.paste(BACKGROUNDS[background.second], box)
    for item in scene.objects:
        picture = sprite(item.cls, item.color, item.size)
        image.paste(picture, item.box[:2], picture)
    return image


def token_labels(scene: Scene, cell: int = TOKEN_CELL) -> tuple[LabelMap, LabelMap, LabelMap]:
    """Return label maps of what each token of an image covers.

    Args:
        scene: The scene; its sides must be multiples of `cell`.
        cell: Pixels on a side of one token.

    Returns:
        Three `[height / cell, width / cell]` maps: class index + 1 and colour index + 1 of the
        object covering most of the cell (0 if none covers a quarter of it), and the index of the
        background colour filling most of the cell.
    """
    rows, columns = scene.height // cell, scene.width // cell
    classes = np.zeros((rows, columns), np.int8)
    colors = np.zeros((rows, columns), np.int8)
    best = np.full((rows, columns), COVERAGE, np.float32)
    names = list(COLORS)
    for item in scene.objects:
        cover = _coverage(scene, item, cell)
        wins = cover >= best
        best = np.where(wins, cover, best)
        classes[wins] = CLASSES.index(item.cls) + 1
        colors[wins] = names.index(item.color) + 1
    return classes, colors, _background_map(scene, rows, columns, cell)


def occupancy(scene: Scene, cell: int = TOKEN_CELL) -> LabelMap:
    """Return the class map of `token_labels`: class index + 1 per token, 0 for background."""
    return token_labels(scene, cell)[0]


def _coverage(scene: Scene, item: SceneObject, cell: int) -> NDArray[np.float32]:
    """Return the share of each cell that an object covers."""
    rows, columns = scene.height // cell, scene.width // cell
    canvas = np.zeros((scene.height, scene.width), np.float32)
    left, top, right, bottom = item.box
    canvas[top:bottom, left:right] = alpha(item.cls, item.size)
    cover: NDArray[np.float32] = canvas.reshape(rows, cell, columns, cell).mean(axis=(1, 3))
    return cover


def _background_map(scene: Scene, rows: int, columns: int, cell: int) -> LabelMap:
    names = list(BACKGROUNDS)
    background = scene.background
    out = np.full((rows, columns), names.index(background.color), np.int8)
    if background.second is None:
        return out
    second = names.index(background.second)
    if background.split == "horizontal":
        centres = (np.arange(rows) + 0.5) * cell
        out[centres >= scene.height // 2, :] = second
    else:
        centres = (np.arange(columns) + 0.5) * cell
        out[:, centres >= scene.width // 2] = second
    return out
