"""Image sizes that Lens can generate, and its named buckets."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lens_core.errors import InvalidSizeError

SIZE_MULTIPLE = 16
"""Pixels per token side: a factor of 8 from the VAE and 2 from patching."""

_VAE_LEVELS, _VAE_PATCH = range(4), (2, 2)

MAX_AREA = 1440 * 1440
"""Maximum area in pixels. Some named buckets of base 1440 exceed it and are still allowed."""

MAX_ASPECT_RATIO = 2
"""Maximum ratio of the longer to the shorter side."""

SizeTable = Mapping[str, tuple[int, int]]

BUCKETS: Mapping[int, SizeTable] = MappingProxyType(
    {
        512: MappingProxyType(
            {
                "1:2": (704, 352),
                "9:16": (672, 384),
                "2:3": (640, 416),
                "3:4": (608, 448),
                "1:1": (512, 512),
                "4:3": (448, 608),
                "3:2": (416, 640),
                "16:9": (384, 672),
                "2:1": (352, 704),
            }
        ),
        768: MappingProxyType(
            {
                "1:2": (1088, 544),
                "9:16": (1024, 576),
                "2:3": (960, 640),
                "3:4": (896, 672),
                "1:1": (768, 768),
                "4:3": (672, 896),
                "3:2": (640, 960),
                "16:9": (576, 1024),
                "2:1": (544, 1088),
            }
        ),
        1024: MappingProxyType(
            {
                "1:2": (1472, 736),
                "9:16": (1376, 768),
                "2:3": (1248, 832),
                "3:4": (1152, 864),
                "1:1": (1024, 1024),
                "4:3": (864, 1152),
                "3:2": (832, 1248),
                "16:9": (768, 1376),
                "2:1": (736, 1472),
            }
        ),
        1440: MappingProxyType(
            {
                "1:2": (2080, 1040),
                "9:16": (1936, 1088),
                "2:3": (1760, 1168),
                "3:4": (1616, 1216),
                "1:1": (1440, 1440),
                "4:3": (1216, 1616),
                "3:2": (1168, 1760),
                "16:9": (1088, 1936),
                "2:1": (1040, 2080),
            }
        ),
    }
)
"""Base resolution -> aspect ratio (width:height) -> (height, width) in pixels.

Lens was trained on the 27 buckets of bases 512, 768 and 1024. Those of base 1440 are only for
generation.
"""

_NAMED_SIZES = frozenset(size for table in BUCKETS.values() for size in table.values())

LARGER_SIZES = tuple(sorted(size for size in _NAMED_SIZES if size[0] * size[1] > MAX_AREA))
"""(height, width) of the named buckets that exceed `MAX_AREA`."""


@dataclass(frozen=True)
class SizeRules:
    """The size rules specific to one model; `validate_size` has the rules common to all.

    Attributes:
        height: Default height in pixels.
        width: Default width in pixels.
        multiple: Pixels per token side.
    """

    height: int
    width: int
    multiple: int = SIZE_MULTIPLE

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """Return the default output (height, width) for a starting image of this size.

        It is the nearest legal size with at most twice the model's default area.
        """
        most = min(MAX_AREA, 2 * self.height * self.width)
        return nearest_size(height, width, self.multiple, most)


def token_side(vae_config: Mapping[str, Any]) -> int:
    """Return the pixels per token side for an autoencoder configuration.

    Args:
        vae_config: Arguments of `AutoencoderKLFlux2`; missing ones have their published values.
    """
    levels = len(vae_config.get("block_out_channels", _VAE_LEVELS))
    return int(2 ** (levels - 1) * vae_config.get("patch_size", _VAE_PATCH)[0])


def resolve_size(aspect_ratio: str = "1:1", base: int = 1024) -> tuple[int, int]:
    """Return (height, width) in pixels for an aspect ratio.

    The bases of `BUCKETS` use the published sizes, also if the ratio is written differently, such
    as `32:18` or `1920:1080`. Other cases use the multiples of 16 nearest to an area of
    `base ** 2`, rounded down if rounding would exceed the maximum area.

    Args:
        aspect_ratio: Width to height, such as `"16:9"`, from 1:2 to 2:1.
        base: Side in pixels of the square with the same area.

    Raises:
        InvalidSizeError: The ratio is malformed or out of range, the base is not a positive
            multiple of 16, or the size is too large.
    """
    ratio = _parse_ratio(aspect_ratio)
    for name, published in BUCKETS.get(base, {}).items():
        if _parse_ratio(name) == ratio:
            return published
    if base % SIZE_MULTIPLE or base <= 0:
        raise InvalidSizeError(f"base {base} must be a positive multiple of {SIZE_MULTIPLE}")
    height, width = _sides(base**2, ratio)
    validate_size(height, width)
    return height, width


def read_size(name: str, base: int = 1024) -> tuple[int, int]:
    """Return (height, width) in pixels for the name of a size.

    Args:
        name: A width-to-height ratio, such as `16:9`, optionally with a base, such as `16:9@1440`;
            or width and height in pixels, such as `1376x768`.
        base: Base to use if the name has none.

    Raises:
        InvalidSizeError: The name has another form, or Lens cannot generate this size.
    """
    found = re.fullmatch(
        r"\s*(?:(?P<ratio>[\d.]+:[\d.]+)(?:@(?P<base>\d{1,5}))?|(?P<w>\d{1,5})[xX×](?P<h>\d{1,5}))\s*",
        name if isinstance(name, str) else "",
    )
    if found is None:
        raise InvalidSizeError(
            f"size {name!r} must be written like 16:9, 16:9@1440 or, in pixels of width and "
            "height, 1376x768"
        )
    if found["ratio"]:
        return resolve_size(found["ratio"], int(found["base"] or base))
    height, width = int(found["h"]), int(found["w"])
    validate_size(height, width)
    return height, width


def base_of(height: int, width: int) -> int:
    """Return the base, a multiple of 16, of the square whose area is nearest to a size's."""
    return _round(math.sqrt(height * width))


def nearest_size(
    height: int, width: int, multiple: int = SIZE_MULTIPLE, most_pixels: int = MAX_AREA
) -> tuple[int, int]:
    """Return the size nearest to an image's that Lens can generate.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        multiple: Pixels per token side of the model.
        most_pixels: Maximum height times width.

    Returns:
        (height, width): multiples of `multiple` with a ratio from 1:2 to 2:1 and at most
        `most_pixels`. If that is `MAX_AREA`, the larger named buckets are allowed too.
    """
    named = (height, width) in _NAMED_SIZES and height % multiple == width % multiple == 0
    if named and (most_pixels >= MAX_AREA or height * width <= most_pixels):
        return height, width
    ratio = min(max(width / height, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
    # An image that is too long is cropped at its ends, so its shorter side keeps its scale.
    long_side = MAX_ASPECT_RATIO * min(height, width)
    area = min(min(height, long_side) * min(width, long_side), most_pixels)
    return _sides(area, ratio, multiple, most_pixels)


def validate_size(height: int, width: int, multiple: int = SIZE_MULTIPLE) -> None:
    """Check that Lens can generate an image of this size.

    Args:
        height: Pixels.
        width: Pixels.
        multiple: Pixels per token side of the model.

    Raises:
        InvalidSizeError: It cannot; names the value and the rule it breaks.
    """
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise InvalidSizeError(f"{name} {value!r} must be a positive whole number of pixels")
        if value % multiple:
            raise InvalidSizeError(
                f"{name} {value} must be a multiple of {multiple}; the nearest is "
                f"{_round(value, multiple)}"
            )
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise InvalidSizeError(
            f"size {height}x{width} (height x width) has an aspect ratio of "
            f"{max(height, width) / min(height, width):.2f}; Lens makes pictures from 1:2 to 2:1"
        )
    if height * width > MAX_AREA and (height, width) not in _NAMED_SIZES:
        raise InvalidSizeError(
            f"size {height}x{width} (height x width) has {height * width} pixels; the largest is "
            f"1440 x 1440 = {MAX_AREA}, or a named bucket of base 1440"
        )


def _sides(
    area: int, ratio: float, multiple: int = SIZE_MULTIPLE, most_pixels: int = MAX_AREA
) -> tuple[int, int]:
    """Return (height, width) as multiples near an area and a width-to-height ratio."""
    exact = [math.sqrt(area / ratio), math.sqrt(area * ratio)]
    sides = [_round(side, multiple) for side in exact]
    if sides[0] * sides[1] > most_pixels:
        sides = [max(multiple, int(side // multiple) * multiple) for side in exact]
    # Rounding may push an extreme ratio past the limit; the shorter side then caps the longer one.
    limit = MAX_ASPECT_RATIO * min(sides)
    return min(sides[0], limit), min(sides[1], limit)


def _round(value: float, multiple: int = SIZE_MULTIPLE) -> int:
    return max(multiple, round(value / multiple) * multiple)


def _parse_ratio(aspect_ratio: str) -> float:
    try:
        width, height = (float(part) for part in aspect_ratio.split(":"))
        ratio = width / height
    except (AttributeError, ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 1 / MAX_ASPECT_RATIO <= ratio <= MAX_ASPECT_RATIO:
        raise InvalidSizeError(
            f"aspect ratio {aspect_ratio!r} must be written width:height, such as '16:9', and lie "
            "between 1:2 and 2:1"
        )
    return ratio
