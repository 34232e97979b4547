"""Scenes of the nano world: the exact contents of an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from lens_core.errors import ParameterError
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, EXTENT, REGIONS, SIZES

Box = tuple[int, int, int, int]
Split = Literal["horizontal", "vertical"]


def pixel_size(cls: str, size: int) -> tuple[int, int]:
    """Return (width, height) in pixels of an object of a class whose longest side is `size`."""
    width, height = EXTENT[cls]
    return round(width * size), round(height * size)


@dataclass(frozen=True)
class Background:
    """One colour, or two that meet in the middle.

    Attributes:
        color: Colour of the whole image, or of its top or left half.
        second: Colour of the bottom or right half, None for a plain background.
        split: "horizontal" puts `color` above `second`, "vertical" to the left of it.
    """

    color: str
    second: str | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        for name in (self.color, self.second):
            if name is not None and name not in BACKGROUNDS:
                raise ParameterError(f"background {name!r} is none of {', '.join(BACKGROUNDS)}")
        if (self.second is None) != (self.split is None):
            raise ParameterError("a two-tone background needs both a second colour and a split")


@dataclass(frozen=True)
class SceneObject:
    """One object, upright.

    Attributes:
        cls: Class name, one of `CLASSES`.
        color: Colour of its body, one of `COLORS`.
        x: Centre of its box in pixels from the left.
        y: Centre of its box in pixels from the top.
        size: Longest side of its box in pixels, outline included.
        size_word: "small", "medium" or "large".
    """

    cls: str
    color: str
    x: float
    y: float
    size: int
    size_word: str

    def __post_init__(self) -> None:
        if self.cls not in CLASSES:
            raise ParameterError(f"class {self.cls!r} is none of {', '.join(CLASSES)}")
        if self.color not in COLORS:
            raise ParameterError(f"colour {self.color!r} is none of {', '.join(COLORS)}")
        if self.size_word not in SIZES:
            raise ParameterError(f"size {self.size_word!r} is none of {', '.join(SIZES)}")

    @property
    def box(self) -> Box:
        """Left, top, right and bottom in pixels, the last two exclusive."""
        width, height = pixel_size(self.cls, self.size)
        left, top = round(self.x - width / 2), round(self.y - height / 2)
        return left, top, left + width, top + height


@dataclass(frozen=True)
class Scene:
    """The contents of an image; objects of one class share colour and size word.

    Attributes:
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
        background: The background behind the objects.
        objects: One to four objects that do not touch each other.
        task: A GenEval task, or "mixed" for scenes used only in training.
    """

    width: int
    height: int
    background: Background
    objects: tuple[SceneObject, ...]
    task: str

    def region(self, item: SceneObject) -> str:
        """Return which of the image's nine regions contains an object's centre."""
        column = min(int(3 * item.x / self.width), 2)
        row = min(int(3 * item.y / self.height), 2)
        return REGIONS[3 * row + column]

    def groups(self) -> list[tuple[SceneObject, ...]]:
        """Return the objects grouped by class, in order of first appearance."""
        found: dict[str, list[SceneObject]] = {}
        for item in self.objects:
            found.setdefault(item.cls, []).append(item)
        return [tuple(items) for items in found.values()]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        objects = [
            {
                "class": item.cls,
                "color": item.color,
                "x": item.x,
                "y": item.y,
                "size": item.size,
                "size_word": item.size_word,
            }
            for item in self.objects
        ]
        return {
            "width": self.width,
            "height": self.height,
            "background": asdict(self.background),
            "objects": objects,
            "task": self.task,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build a scene from the result of `to_dict`."""
        objects = tuple(
            SceneObject(
                cls=item["class"],
                color=item["color"],
                x=float(item["x"]),
                y=float(item["y"]),
                size=int(item["size"]),
                size_word=item["size_word"],
            )
            for item in data["objects"]
        )
        return cls(
            width=int(data["width"]),
            height=int(data["height"]),
            background=Background(**data["background"]),
            objects=objects,
            task=data["task"],
        )
