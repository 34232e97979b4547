"""Buckets: the picture sizes that training sees, and which of them a picture goes into.

The 27 of the report (arXiv 2605.21573, section 3) are nine ratios at three areas. A picture is
never enlarged: it goes to the largest area whose nearest ratio it covers.
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
    """A picture size.

    Attributes:
        base: Side in pixels of the square picture of about the same area.
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
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def tokens(self) -> int:
        """Image tokens of a model whose tokens are 16 pixels wide."""
        return (self.height // SIZE_MULTIPLE) * (self.width // SIZE_MULTIPLE)


def _table(sizes: Mapping[int, Sequence[tuple[int, int]]]) -> tuple[Bucket, ...]:
    """Buckets of some sizes and their transposes."""
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
"""Tables by name: the report's 27, its first stage's one, its largest area, the nano world's."""

BATCH_SIZES: Mapping[int, int] = MappingProxyType({512: 24, 768: 10, 1024: 6})
"""Pictures of a batch by base, such that batches of all bases take about equally long."""

NANO_HELD_OUT: tuple[tuple[int, int], ...] = tuple(b.size for b in TABLES["nano-held-out"])
"""Height and width that no nano stage trains on: ratios 7:8 and 7:10, and a larger area."""


def bucket_table(name: str) -> tuple[Bucket, ...]:
    """A table by name.

    Raises:
        ParameterError: No such table.
    """
    if name not in TABLES:
        raise ParameterError(f"there are no buckets {name!r}; choose one of {', '.join(TABLES)}")
    return TABLES[name]


def fitting_buckets(height: int, width: int, table: Sequence[Bucket]) -> list[Bucket]:
    """Buckets that a picture fills without being enlarged, largest area first, one of each base.

    Of every base the bucket of the nearest ratio, by its logarithm, is the only candidate.

    Args:
        height: Pixels of the picture.
        width: Pixels of the picture.
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
    """The bucket of a picture: the largest area that it fills without being enlarged.

    Raises:
        UnfitImageError: The picture is too small for all of them.
    """
    fitting = fitting_buckets(height, width, table)
    if not fitting:
        least = min(table, key=lambda bucket: bucket.height * bucket.width)
        raise UnfitImageError(
            f"a picture of {width}x{height} (width x height) would have to be enlarged for every "
            f"bucket of its ratio; the smallest bucket is {least.width}x{least.height}"
        )
    return fitting[0]
