"""Shards of small pictures in two bases, and settings of stages that train on them."""

import io
from pathlib import Path

from PIL import Image

from lens_core.data.buckets import Bucket
from lens_core.data.sources import SourceImage
from lens_core.data.writing import ShardSettings, write_shards

TABLE = (Bucket(48, 48, 48), Bucket(64, 64, 64), Bucket(64, 48, 80))

MIXED = {
    "steps": "4",
    "batch_sizes": '{"48": 4, "64": 2}',
    "learning_rate": "0.01",
    "optimizer": "adamw",
    "warmup_steps": "1",
    "decay_steps": "0",
    "caption_shares": "{}",
    "caption_dropout": "0.2",
    "precision": "float32",
    "log_every": "1",
    "save_every": "2",
    "sample_every": "0",
    "validate_every": "0",
    "trackers": "[]",
}


def picture(width: int, height: int, shade: int) -> bytes:
    buffer = io.BytesIO()
    colour = (shade * 37 % 256, shade * 91 % 256, shade * 13 % 256)
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(folder: Path, pictures: int = 24) -> Path:
    """Pictures of one colour each, evenly over the buckets."""
    images = []
    for index in range(pictures):
        bucket = TABLE[index % len(TABLE)]
        content = picture(bucket.width, bucket.height, index)
        captions = {"dense": f"a long story of colour {index}", "brief": f"colour {index}"}
        images.append(SourceImage(str(index), captions, lambda content=content: content))
    write_shards(images, folder, ShardSettings(TABLE, samples_per_shard=4), {})
    return folder
