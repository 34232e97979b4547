"""Vocabulary of the nano world: classes, and colours with their RGB values."""

from __future__ import annotations

from typing import Final

RGB = tuple[int, int, int]

CLASSES: Final[tuple[str, ...]] = (
    "apple",
    "cup",
    "car",
    "house",
    "tree",
    "fish",
    "flower",
    "star",
    "umbrella",
    "heart",
)

PLURALS: Final[dict[str, str]] = {
    "apple": "apples",
    "cup": "cups",
    "car": "cars",
    "house": "houses",
    "tree": "trees",
    "fish": "fish",
    "flower": "flowers",
    "star": "stars",
    "umbrella": "umbrellas",
    "heart": "hearts",
}

COLORS: Final[dict[str, RGB]] = {
    "red": (214, 40, 40),
    "orange": (247, 132, 24),
    "yellow": (252, 212, 44),
    "green": (46, 156, 66),
    "blue": (42, 92, 214),
    "purple": (128, 52, 176),
    "pink": (246, 118, 182),
    "brown": (126, 74, 38),
    "black": (36, 36, 42),
    "white": (252, 252, 252),
}
"""GenEval's ten colours, in GenEval's order."""

BACKGROUNDS: Final[dict[str, RGB]] = {
    "cream": (240, 226, 192),
    "azure": (170, 210, 236),
    "mint": (176, 226, 202),
    "lavender": (202, 192, 232),
    "grey": (188, 190, 196),
    "peach": (240, 196, 170),
    "teal": (112, 172, 176),
    "sage": (168, 184, 138),
}
"""Muted background colours that no object has."""

SIZES: Final[dict[str, tuple[int, int]]] = {
    "small": (26, 30),
    "medium": (36, 42),
    "large": (50, 58),
}
"""Range of an object's longest side in pixels, inclusive, in a 128 x 128 image."""

REGIONS: Final[tuple[str, ...]] = (
    "upper left",
    "top",
    "upper right",
    "left",
    "centre",
    "right",
    "lower left",
    "bottom",
    "lower right",
)
"""The nine regions of an image in row-major order."""

POSITIONS: Final[tuple[str, ...]] = ("left of", "right of", "above", "below")
"""GenEval's four relations."""

TASKS: Final[tuple[str, ...]] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
)
"""GenEval's six tasks in the order of its tables."""

EXTENT: Final[dict[str, tuple[float, float]]] = {
    "apple": (0.968, 1.0),
    "cup": (1.0, 0.927),
    "car": (1.0, 0.681),
    "house": (1.0, 0.978),
    "tree": (0.828, 1.0),
    "fish": (1.0, 0.641),
    "flower": (0.906, 1.0),
    "star": (1.0, 0.961),
    "umbrella": (0.989, 1.0),
    "heart": (1.0, 0.906),
}
"""Width and height of each class as a share of its longest side."""
