"""Pictures and captions for the distillation, by number: any batch can be had at any time."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lens_core.data.encoding import BatchEncoder
from lens_core.data.loader import BucketLoader
from lens_core.errors import ComponentError
from lens_core.text_features import TextFeatures
from lens_core.training.batches import shard_path
from lens_core.training.config import Size
from lens_core.training.shards import Group, read_shard


@dataclass(frozen=True)
class Pairs:
    """Pictures of one size and their captions.

    Attributes:
        size: Height and width in pixels.
        latents: Normalised tokens `[B, N, C]`, float32.
        text: Features of the captions.
    """

    size: Size
    latents: Tensor
    text: TextFeatures

    def to(self, device: torch.device) -> "Pairs":
        """Move to a device."""
        text = self.text.to(device, torch.float32)
        return Pairs(self.size, self.latents.to(device), text)


class PairSource(Protocol):
    """Gives batches by number."""

    def batch(self, number: int) -> Pairs:
        """Batch `number`, the same whenever it is asked for."""
        ...


@dataclass(frozen=True)
class LoaderPairs:
    """Batches of shards by bucket.

    Attributes:
        loader: Reads them.
        encoder: Encodes them.
    """

    loader: BucketLoader
    encoder: BatchEncoder

    def batch(self, number: int) -> Pairs:
        """See `PairSource.batch`."""
        encoded = self.encoder.encode(self.loader.batch(number))
        return Pairs(encoded.bucket.size, encoded.latents, encoded.text)


@dataclass(frozen=True)
class ShardPairs:
    """Batches of the cached shards, one shard after the other, each in an order of its visit.

    Attributes:
        folder: With the shards.
        shards: How many of them.
        batch_size: Pictures of a batch.
        brief_share: Share of batches with brief captions.
        seed: Seed of the order.

    Raises:
        ComponentError: A shard is missing, or holds too few pictures of every size for a batch.
    """

    folder: Path
    shards: int
    batch_size: int
    brief_share: float
    seed: int

    def __post_init__(self) -> None:
        missing = [i for i in range(self.shards) if not shard_path(self.folder, i).is_file()]
        if missing:
            raise ComponentError(
                f"{shard_path(self.folder, missing[0])} is missing: run the stage shards with the "
                "same --out first, or lower --set shards"
            )
        if self._batches_per_visit() == 0:
            raise ComponentError(
                f"{self.folder} has no {self.batch_size} pictures of one size in a shard; lower "
                "batch_size"
            )

    def batch(self, number: int) -> Pairs:
        """See `PairSource.batch`."""
        visit, place = divmod(number, self._batches_per_visit())
        groups = _shard(shard_path(self.folder, visit % self.shards))
        rng = np.random.default_rng((self.seed, 21, visit))
        places = [
            (index, part)
            for index, group in enumerate(groups)
            for part in range(len(group.latents) // self.batch_size)
        ]
        orders = [rng.permutation(len(group.latents)) for group in groups]
        briefs = rng.random(len(places)) < self.brief_share
        chosen = int(rng.permutation(len(places))[place])
        index, part = places[chosen]
        rows = orders[index][part * self.batch_size : (part + 1) * self.batch_size]
        kind = "brief" if briefs[chosen] else "dense"
        return _load(groups[index], kind, [int(row) for row in rows])

    def _batches_per_visit(self) -> int:
        groups = _shard(shard_path(self.folder, 0))
        return sum(len(group.latents) // self.batch_size for group in groups)


def _load(group: Group, kind: str, rows: list[int]) -> Pairs:
    features, mask = group.text(kind, rows, least=1, multiple=1)
    return Pairs(group.size, group.latents[rows].float(), TextFeatures(features.float(), mask))


@lru_cache(maxsize=2)
def _shard(path: Path) -> list[Group]:
    return read_shard(path)
