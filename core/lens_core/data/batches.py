"""What the loader hands out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lens_core.data.buckets import Bucket


@dataclass(frozen=True)
class LoadedSample:
    """A picture and the caption it is trained with.

    Attributes:
        name: Shard and number, for messages.
        content_hash: SHA-256 of the picture file.
        pixels: `[height, width, 3]` bytes; None where the latents are cached.
        caption: Its text.
    """

    name: str
    content_hash: str
    pixels: NDArray[np.uint8] | None
    caption: str


@dataclass(frozen=True)
class BucketBatch:
    """Samples of one bucket.

    Attributes:
        number: Of the batch, over all processes and from the beginning of the run.
        bucket: Size of every picture.
        samples: As many as the bucket's batch has.
        skipped: Samples that were replaced, by the reason.
        waited: Seconds that training waited for this batch.
    """

    number: int
    bucket: Bucket
    samples: tuple[LoadedSample, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    waited: float = 0.0
