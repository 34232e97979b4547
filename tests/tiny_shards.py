"""Shards of 28 small pictures in three buckets, and a loader of them."""

import io
from pathlib import Path

from PIL import Image

from lens_core.data.buckets import Bucket
from lens_core.data.loader import BucketLoader, LoaderSettings
from lens_core.data.reading import ShardFolder
from lens_core.data.sources import SourceImage
from lens_core.data.writing import ShardSettings, write_shards

TABLE = (Bucket(64, 64, 64), Bucket(64, 48, 80), Bucket(96, 96, 96))
SIZES = {64: 3, 96: 2}
COUNTS = {"64x64": 14, "48x80": 9, "96x96": 5}


def picture(width: int, height: int, shade: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade % 256, shade // 256, 90)).save(buffer, kind)
    return buffer.getvalue()


def source(name: str, content: bytes, **captions: str) -> SourceImage:
    return SourceImage(name, captions, lambda: content)


def images() -> list[SourceImage]:
    shapes = {"64x64": (64, 64), "48x80": (80, 48), "96x96": (96, 96)}
    return [
        source(f"{name}-{i}", picture(*shapes[name], i), dense=f"{name} dense {i}", brief=f"b {i}")
        for name, count in COUNTS.items()
        for i in range(count)
    ]


def write_images(folder: Path) -> Path:
    """The pictures as shards of four."""
    write_shards(images(), folder, ShardSettings(TABLE, samples_per_shard=4), {})
    return folder


def settings(**changes: object) -> LoaderSettings:
    return LoaderSettings.model_validate({"seed": 5, "batch_sizes": SIZES} | changes)


def loader(folder: Path, rank: int = 0, ranks: int = 1, **changes: object) -> BucketLoader:
    return BucketLoader(ShardFolder.open(folder), settings(**changes), rank, ranks)


Seen = tuple[int, str, tuple[str, ...]]


def take(stream: BucketLoader, count: int) -> list[Seen]:
    """Number, bucket and captions of some batches; captions name the pictures."""
    return [
        (batch.number, batch.bucket.name, tuple(sample.caption for sample in batch.samples))
        for batch in (next(stream) for _ in range(count))
    ]
