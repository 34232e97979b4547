"""The bucket loader as the training engine's data."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from lens_core.data.encoding import BatchEncoder, EncodedBatch
from lens_core.data.loader import BucketLoader, LoaderSettings
from lens_core.data.reading import ShardFolder
from lens_core.errors import CheckpointError
from lens_core.training.batches import Batch
from lens_core.training.mixed.config import BucketConfig
from lens_core.training.seeds import seeded
from lens_core.training.workers import Workers

_DROPOUT = 51
_LOG = logging.getLogger(__name__)


class BucketBatches:
    """This process's batches; different processes may hold different buckets in one step.

    Args:
        config: The run's settings.
        data: The shards.
        encoder: Pictures and captions to latents and features.
        workers: The processes that share the stream.
    """

    def __init__(
        self, config: BucketConfig, data: ShardFolder, encoder: BatchEncoder, workers: Workers
    ) -> None:
        self._config, self._encoder, self._workers = config, encoder, workers
        self._told: set[str] = set()
        self._loader = BucketLoader(
            data, config.loader(), workers.rank, workers.count, encoder.has_latents
        )

    def __next__(self) -> Batch:
        """See `BatchSource.__next__`."""
        loaded = next(self._loader)
        for kind in loaded.skipped.keys() - self._told:
            self._told.add(kind)
            _LOG.warning("data is skipped (%s); saved states count how often", kind)
        encoded = self._encoder.encode(loaded)
        return as_batch(encoded, self._config.caption_dropout, self._config.seed, loaded.waited)

    def state(self) -> dict[str, Any]:
        """See `BatchSource.state`."""
        return self._loader.state()

    def restore(self, states: Sequence[dict[str, Any]], batches: int) -> None:
        """See `BatchSource.restore`.

        Raises:
            CheckpointError: The saved position and the number of batches contradict each other.
            DataError: It belongs to other shards.
            ParameterError: It belongs to other settings.
        """
        if not states or int(states[0]["number"]) != batches:
            raise CheckpointError(
                f"the saved state counts {batches} batches, but its data stands at "
                f"{states[0]['number'] if states else 'no position'}; remove it to start again"
            )
        same = len(states) == self._workers.count
        self._loader.restore(states[self._workers.rank if same else 0])

    def close(self) -> None:
        """Stop reading ahead."""
        self._loader.close()


def as_batch(encoded: EncodedBatch, dropout: float, seed: int, waited: float = 0.0) -> Batch:
    """What the engine trains on: rows that lose their caption stand last.

    Args:
        encoded: Latents and features.
        dropout: Chance of every row to go without its caption.
        seed: Decides them, with the batch's number.
        waited: Seconds spent waiting for the data.
    """
    rows = len(encoded.latents)
    chances = torch.rand(rows, generator=seeded(seed, _DROPOUT, encoded.number))
    kept = (chances >= dropout).nonzero().flatten()
    order = torch.cat([kept, (chances < dropout).nonzero().flatten()])
    return Batch(
        encoded.bucket.size,
        encoded.latents[order],
        encoded.text.embeds[:, kept],
        encoded.text.mask[kept],
        waited=waited,
    )


def held_out_batches(
    data: ShardFolder, encoder: BatchEncoder, config: BucketConfig, pictures: int
) -> list[Batch]:
    """A batch of every bucket of a folder, always the same, all captioned.

    Args:
        data: The shards.
        encoder: Encodes them.
        config: The run's settings; captions are chosen as in training.
        pictures: Of every bucket, at most.
    """
    batches = []
    for bucket in data.manifest.bucket_list():
        held = sum(s.samples for s in data.manifest.shards if s.bucket == bucket.name)
        sizes = dict.fromkeys((b.base for b in data.manifest.bucket_list()), min(held, pictures))
        settings = LoaderSettings(
            batch_sizes=sizes,
            bucket_shares={bucket.name: 1.0},
            caption_shares=config.caption_shares,
            policy=config.policy,
            threads=0,
        )
        loaded = next(BucketLoader(data, settings, cached=encoder.has_latents))
        batches.append(as_batch(encoder.encode(loaded), 0.0, 0))
    return batches
