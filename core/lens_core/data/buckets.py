"""Buckets: the image sizes used in training, and the choice of an image's bucket.

The report's 27 buckets (arXiv 2605.21573, section 3) are nine ratios at three areas. Images are
never enlarged: an image goes to the largest area at which it covers the bucket of nearest ratio.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lens_core.data.errors import UnfitImageError
from lens_core.errors import ParameterError
from lens_core.sizes import SIZE_MULTIPLE


@dataclass(frozen=True, order=True)
class Bucket:
    """An image size for training.

    Attributes:
        base: Side in pixels of the square with about the same area.
        height: Pixels.
        width: Pixels.
    """

    base: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """`HEIGHTxWIDTH`, unique within a table."""
        return f"{self.height}x{self.width}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def tokens(self) -> int:
        """Number of image tokens at 16 x 16 pixels per token."""
        return (self.height // SIZE_MULTIPLE) * (self.width // SIZE_MULTIPLE)


def _table(sizes: Mapping[int, Sequence[tuple[int, int]]]) -> tuple[Bucket, ...]:
    """Build buckets for sizes and their transposes."""
    found = {
        Bucket(base, *sides)
        for base, members in sizes.items()
        for size in members
        for sides in (size, size[::-1])
    }
    return tuple(sorted(found))


_LENS = {
    512: ((352, 704), (384, 672), (416, 640), (448, 608), (512, 512)),
    768: ((544, 1088), (576, 1024), (640, 960), (672, 896), (768, 768)),
    1024: ((736, 1472), (768, 1376), (832, 1248), (864, 1152), (1024, 1024)),
}
_NANO = {
    96: ((64, 128), (80, 128), (96, 96)),
    128: ((96, 192), (96, 160), (112, 144), (128, 128)),
    160: ((112, 224), (128, 208), (144, 192), (160, 160)),
}

TABLES: Mapping[str, tuple[Bucket, ...]] = MappingProxyType(
    {
        "lens": _table(_LENS),
        "lens-512": _table({512: ((512, 512),)}),
        "lens-1024": _table({1024: _LENS[1024]}),
        "nano": _table(_NANO),
        "nano-128": _table({128: ((128, 128), (112, 144), (96, 160))}),
        "nano-held-out": _table({128: ((112, 128), (112, 160)), 192: ((192, 192),)}),
    }
)
"""Tables by name: the report's 27, its first stage's bucket, its largest area, the nano world's."""

BATCH_SIZES: Mapping[int, int] = MappingProxyType({512: 24, 768: 10, 1024: 6})
"""Batch size by base, chosen so that batches of all bases take about equally long."""

NANO_HELD_OUT: tuple[tuple[int, int], ...] = tuple(b.size for b in TABLES["nano-held-out"])
"""(height, width) that no nano stage trains on: ratios 7:8 and 7:10, and a larger area."""


def bucket_table(name: str) -> tuple[Bucket, ...]:
    """Return a table by name.

    Raises:
        ParameterError: There is no such table.
    """
    if name not in TABLES:
        raise ParameterError(f"there are no buckets {name!r}; choose one of {', '.join(TABLES)}")
    return TABLES[name]


def fitting_buckets(height: int, width: int, table: Sequence[Bucket]) -> list[Bucket]:
    """Return the buckets an image fills without enlargement, largest area first, one per base.

    The only candidate for each base is the bucket with the nearest ratio, on a logarithmic scale.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        table: Buckets to choose from.
    """
    ratio = math.log(height / width)
    nearest: dict[int, Bucket] = {}
    for bucket in sorted(table):
        best = nearest.get(bucket.base)
        distance = abs(math.log(bucket.height / bucket.width) - ratio)
        if best is None or distance < abs(math.log(best.height / best.width) - ratio) - 1e-9:
            nearest[bucket.base] = bucket
    fitting = [b for b in nearest.values() if b.height <= height and b.width <= width]
    return sorted(fitting, key=lambda bucket: -bucket.base)


def nearest_bucket(height: int, width: int, table: Sequence[Bucket]) -> Bucket:
    """Return an image's bucket: the largest area that it fills without enlargement.

    Raises:
        UnfitImageError: The image is too small for all buckets.
    """
    fitting = fitting_buckets(height, width, table)
    if not fitting:
        least = min(table, key=lambda bucket: bucket.height * bucket.width)
        raise UnfitImageError(
            f"a picture of {width}x{height} (width x height) would have to be enlarged for every "
            f"bucket of its ratio; the smallest bucket is {least.width}x{least.height}"
        )
    return fitting[0]
