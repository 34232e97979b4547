"""Samples and batches returned by the loader."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lens_core.data.buckets import Bucket


@dataclass(frozen=True)
class LoadedSample:
    """An image and the caption to train it with.

    Attributes:
        name: Shard and number, for messages.
        content_hash: SHA-256 of the image file.
        pixels: `[height, width, 3]` bytes; None if the latents are cached.
        caption: Text of the caption.
    """

    name: str
    content_hash: str
    pixels: NDArray[np.uint8] | None
    caption: str


@dataclass(frozen=True)
class BucketBatch:
    """Samples of one bucket.

    Attributes:
        number: Number of the batch over all processes, counted from the beginning of the run.
        bucket: Size of every image.
        samples: The samples, as many as the bucket's batch size.
        skipped: Number of replaced samples, by reason.
        waited: Seconds that training waited for this batch.
    """

    number: int
    bucket: Bucket
    samples: tuple[LoadedSample, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    waited: float = 0.0
