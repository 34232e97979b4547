"""The ten object shapes, drawn once at high resolution and scaled down by `drawing`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

from lens_core.nano.vocabulary import COLORS, RGB

UNIT = 256
"""Pixels per unit of shape coordinates in a master drawing."""
MARGIN = 48
"""Master pixels around the unit square, for outlines."""
OUTLINE = 9
"""Outline width in master pixels: 1.2 pixels on an object of 36 pixels."""

Point = tuple[float, float]


def mix(color: RGB, other: RGB, share: float) -> RGB:
    """Return `color` with a `share` of `other` mixed in."""
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other, strict=True))  # type: ignore[return-value]


def outline_color(color: str) -> RGB:
    """Return an object's outline colour: a darker tone, or a lighter one for black objects."""
    if color == "black":
        return (150, 150, 158)
    if color == "white":
        return (84, 84, 96)
    return mix(COLORS[color], (20, 16, 24), 0.55)


class Brush:
    """Draws in unit coordinates, x to the right and y down, with one object's shades."""

    def __init__(self, image: Image.Image, color: str) -> None:
        self._draw = ImageDraw.Draw(image)
        self.name = color
        self.body = COLORS[color]
        self.outline = outline_color(color)
        toward: RGB = (120, 120, 130) if color == "black" else (0, 0, 0)
        self.shade = mix(self.body, toward, 0.16 if color == "white" else 0.2)
        self.light = mix(self.body, (255, 255, 255), 0.2 if color == "black" else 0.42)

    def _px(self, points: list[Point]) -> list[Point]:
        return [(MARGIN + x * UNIT, MARGIN + y * UNIT) for x, y in points]

    def polygon(self, points: list[Point], fill: RGB) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._px(points), fill=(*fill, 255))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """Fill an axis-aligned ellipse given by its centre and radii."""
        (a, b) = self._px([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((*a, *b), fill=(*fill, 255))

    def tilted(self, x: float, y: float, rx: float, ry: float, turn: float, fill: RGB) -> None:
        """Fill an ellipse turned clockwise by `turn` degrees."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        steps = [2 * math.pi * i / 48 for i in range(48)]
        ring = [(rx * math.cos(t), ry * math.sin(t)) for t in steps]
        self.polygon([(x + u * c - v * s, y + u * s + v * c) for u, v in ring], fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, r: float = 0.0) -> None:
        """Fill a rectangle with corners of radius `r`."""
        (a, b) = self._px([(x0, y0), (x1, y1)])
        self._draw.rounded_rectangle((*a, *b), radius=r * UNIT, fill=(*fill, 255))

    def line(self, points: list[Point], width: float, fill: RGB) -> None:
        """Draw a line with round ends and joints."""
        pixels = self._px(points)
        self._draw.line(pixels, fill=(*fill, 255), width=round(width * UNIT), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, span: Point, width: float, fill: RGB
    ) -> None:
        """Draw part of an ellipse from `span[0]` to `span[1]` degrees, clockwise from the right."""
        steps = [math.radians(span[0] + (span[1] - span[0]) * i / 32) for i in range(33)]
        self.line([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in steps], width, fill)


BROWN: RGB = (122, 78, 44)
LEAF: RGB = (58, 128, 58)
GLASS: RGB = (198, 230, 246)
DARK: RGB = (52, 54, 62)
ROOF: RGB = (92, 84, 104)
LAMP: RGB = (255, 226, 120)


def _apple(b: Brush) -> None:
    b.line([(0.50, 0.34), (0.52, 0.20), (0.57, 0.10)], 0.065, BROWN)
    b.tilted(0.71, 0.17, 0.16, 0.075, -28, LEAF)
    b.ellipse(0.35, 0.60, 0.29, 0.32, b.body)
    b.ellipse(0.65, 0.60, 0.29, 0.32, b.body)
    b.ellipse(0.50, 0.68, 0.34, 0.30, b.body)
    b.polygon([(0.42, 0.27), (0.58, 0.27), (0.50, 0.37)], b.shade)
    b.tilted(0.24, 0.50, 0.06, 0.12, 22, b.light)


def _cup(b: Brush) -> None:
    b.arc(0.72, 0.42, 0.20, 0.19, (-90, 90), 0.085, b.shade)
    b.polygon([(0.06, 0.12), (0.76, 0.12), (0.68, 0.74), (0.14, 0.74)], b.body)
    b.rect(0.13, 0.58, 0.69, 0.86, b.body, 0.12)
    b.ellipse(0.41, 0.13, 0.35, 0.10, b.light if b.name != "white" else b.shade)
    b.ellipse(0.41, 0.14, 0.28, 0.065, (96, 64, 44))
    b.tilted(0.18, 0.46, 0.035, 0.16, -6, b.light)


def _car(b: Brush) -> None:
    b.polygon([(0.20, 0.34), (0.32, 0.06), (0.68, 0.06), (0.84, 0.34)], b.body)
    b.rect(0.02, 0.28, 0.98, 0.54, b.body, 0.10)
    b.rect(0.30, 0.02, 0.70, 0.20, b.body, 0.06)
    b.polygon([(0.29, 0.28), (0.36, 0.10), (0.48, 0.10), (0.48, 0.28)], GLASS)
    b.polygon([(0.54, 0.28), (0.54, 0.10), (0.66, 0.10), (0.76, 0.28)], GLASS)
    b.rect(0.06, 0.45, 0.94, 0.49, b.shade)
    b.ellipse(0.93, 0.37, 0.04, 0.045, LAMP)
    for x in (0.25, 0.75):
        b.ellipse(x, 0.53, 0.125, 0.125, DARK)
        b.ellipse(x, 0.53, 0.055, 0.055, (190, 192, 198))


def _house(b: Brush) -> None:
    b.rect(0.70, 0.08, 0.82, 0.34, ROOF)
    b.rect(0.10, 0.40, 0.90, 0.98, b.body)
    b.rect(0.10, 0.42, 0.90, 0.48, b.shade)
    b.polygon([(0.0, 0.45), (0.46, 0.0), (0.54, 0.0), (1.0, 0.45)], ROOF)
    b.rect(0.20, 0.60, 0.43, 0.80, b.outline)
    b.rect(0.225, 0.625, 0.405, 0.775, LAMP)
    b.rect(0.56, 0.60, 0.78, 0.98, b.outline)
    b.rect(0.585, 0.625, 0.755, 0.98, BROWN)


def _tree(b: Brush) -> None:
    b.polygon([(0.40, 0.55), (0.60, 0.55), (0.64, 1.0), (0.36, 1.0)], BROWN)
    for x, y, r in ((0.30, 0.48, 0.20), (0.70, 0.48, 0.20), (0.50, 0.50, 0.22)):
        b.ellipse(x, y, r, r, b.body)
    b.ellipse(0.50, 0.27, 0.25, 0.25, b.body)
    b.ellipse(0.33, 0.33, 0.16, 0.16, b.body)
    b.ellipse(0.67, 0.33, 0.16, 0.16, b.body)
    b.arc(0.62, 0.50, 0.17, 0.13, (20, 100), 0.04, b.shade)
    b.tilted(0.40, 0.18, 0.09, 0.055, -35, b.light)


def _fish(b: Brush) -> None:
    b.polygon(
        [(0.30, 0.34), (0.04, 0.06), (0.0, 0.12), (0.07, 0.34), (0.0, 0.56), (0.04, 0.62)], b.shade
    )
    b.polygon([(0.40, 0.14), (0.56, 0.0), (0.74, 0.06), (0.72, 0.16)], b.shade)
    b.ellipse(0.60, 0.35, 0.40, 0.27, b.body)
    b.tilted(0.50, 0.40, 0.12, 0.055, 20, b.shade)
    b.tilted(0.58, 0.19, 0.17, 0.03, -3, b.light)
    b.ellipse(0.84, 0.29, 0.065, 0.065, b.outline)
    b.ellipse(0.84, 0.29, 0.052, 0.052, (255, 255, 255))
    b.ellipse(0.85, 0.29, 0.03, 0.03, DARK)


def _flower(b: Brush) -> None:
    centre: RGB = (140, 84, 36) if b.name in ("yellow", "orange", "white") else (255, 208, 64)
    for turn in range(-90, 270, 60):
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        b.tilted(0.5 + 0.31 * c, 0.5 + 0.31 * s, 0.20, 0.155, turn, b.body)
    b.ellipse(0.5, 0.5, 0.25, 0.25, b.shade)
    b.ellipse(0.5, 0.5, 0.185, 0.185, centre)
    b.tilted(0.45, 0.45, 0.06, 0.04, -45, mix(centre, (255, 255, 255), 0.4))


def _star(b: Brush) -> None:
    corners = []
    for i in range(10):
        radius, turn = (0.47 if i % 2 == 0 else 0.215), math.radians(-90 + 36 * i)
        corners.append((0.5 + radius * math.cos(turn), 0.5 + radius * math.sin(turn)))
    b.polygon(corners, b.body)
    b.line([*corners, corners[0]], 0.06, b.body)
    b.tilted(0.42, 0.38, 0.045, 0.11, 18, b.light)


def _umbrella(b: Brush) -> None:
    b.line([(0.5, 0.0), (0.5, 0.12)], 0.05, DARK)
    b.line([(0.5, 0.45), (0.5, 0.88)], 0.055, DARK)
    b.arc(0.60, 0.87, 0.10, 0.09, (180, 20), 0.055, DARK)
    dome = [math.radians(180 + 180 * i / 48) for i in range(49)]
    b.polygon([(0.5 + 0.5 * math.cos(t), 0.54 + 0.46 * math.sin(t)) for t in dome], b.body)
    for x, r in ((0.115, 0.115), (0.365, 0.135), (0.635, 0.135), (0.885, 0.115)):
        b.ellipse(x, 0.54, r, 0.055, b.body)
    for x in (0.24, 0.76):
        b.line([(0.5, 0.10), (0.5 + (x - 0.5) * 0.75, 0.26), (x, 0.54)], 0.028, b.shade)
    b.line([(0.5, 0.10), (0.5, 0.54)], 0.028, b.shade)
    b.tilted(0.22, 0.30, 0.035, 0.11, 38, b.light)


def _heart(b: Brush) -> None:
    curve = []
    for i in range(96):
        t = 2 * math.pi * i / 96
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((0.5 + x / 33, 0.43 - y / 33))
    b.polygon(curve, b.body)
    b.tilted(0.24, 0.26, 0.05, 0.11, 38, b.light)


SHAPES: dict[str, Callable[[Brush], None]] = {
    "apple": _apple,
    "cup": _cup,
    "car": _car,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "flower": _flower,
    "star": _star,
    "umbrella": _umbrella,
    "heart": _heart,
}


@lru_cache(maxsize=128)
def master_sprite(cls: str, color: str) -> Image.Image:
    """Return an object at high resolution as RGBA, outlined and cropped to its silhouette."""
    side = UNIT + 2 * MARGIN
    inside = Image.new("RGBA", (side, side))
    brush = Brush(inside, color)
    SHAPES[cls](brush)
    mask = inside.getchannel("A")
    for _ in range(OUTLINE // 2):
        mask = mask.filter(ImageFilter.MaxFilter(5))
    rounded = mask.filter(ImageFilter.GaussianBlur(3)).point(lambda v: 255 if v > 127 else 0)
    picture = Image.new("RGBA", (side, side), (*brush.outline, 0))
    picture.paste(Image.new("RGBA", (side, side), (*brush.outline, 255)), (0, 0), rounded)
    picture.alpha_composite(inside)
    return picture.crop(picture.getchannel("A").getbbox())
