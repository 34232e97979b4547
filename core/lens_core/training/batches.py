"""Batches of the denoiser: their order depends on the seed and the step, never on the clock."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lens_core.errors import ParameterError
from lens_core.training.config import NANO_SIZES, PretrainConfig, Size
from lens_core.training.shards import Group, read_shard
from lens_core.training.workers import Workers


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        size: Height and width in pixels, the same for every row.
        latents: `[B, tokens, channels]`.
        features: `[layers, B - unconditional, S, width]`: the last rows go without text.
        mask: `[B - unconditional, S]`.
        labels: What every token shows, `[B, tokens, 3]`, for the alignment head.
        waited: Seconds spent waiting for the data.
    """

    size: Size
    latents: Tensor
    features: Tensor
    mask: Tensor
    labels: Tensor | None = None
    waited: float = 0.0

    @property
    def bucket(self) -> str:
        """`HEIGHTxWIDTH` in pixels."""
        return f"{self.size[0]}x{self.size[1]}"


class BatchSource(Protocol):
    """One process's batches, for ever."""

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON: what is needed to go on with the next batch."""
        ...

    def restore(self, states: Sequence[dict[str, Any]], batches: int) -> None:
        """Go on where a saved run stood, with as many processes or with others.

        Args:
            states: What `state` gave in every process of the saved run, by rank.
            batches: Batches that all processes had drawn together.
        """
        ...


def shard_path(folder: Path, index: int) -> Path:
    """Where shard `index` lies."""
    return folder / f"shard-{index:04d}.safetensors"


class SceneBatches:
    """This worker's batches of nano scenes: one of every `workers.count`.

    Shards are passed over in order, again and again. Within a shard, scenes of one size are sorted
    by caption length so that little is padding, cut into batches, and the batches shuffled. A shard
    that is not there yet is waited for, so that encoding may go on beside training.

    Args:
        config: The run's settings.
        folder: Where the shards lie.
        workers: The processes that share the stream.

    Raises:
        ParameterError: A shard holds too few scenes of one size for a batch.
    """

    def __init__(self, config: PretrainConfig, folder: Path, workers: Workers) -> None:
        if _batches_per_visit(config) == 0:
            raise ParameterError(
                f"batch_size {config.batch_size} is more than the scenes of one size in a shard of "
                f"shard_scenes {config.shard_scenes}; lower batch_size"
            )
        self._config = config
        self._folder = folder
        self._workers = workers
        self._stream = self._from(workers.rank)

    def __next__(self) -> Batch:
        """See `BatchSource.__next__`."""
        return next(self._stream)

    def state(self) -> dict[str, Any]:
        """Nothing: the number of batches says all."""
        return {}

    def restore(self, states: Sequence[dict[str, Any]], batches: int) -> None:
        """See `BatchSource.restore`."""
        self._stream = self._from(batches + self._workers.rank)

    def _from(self, first: int) -> Iterator[Batch]:
        config, number, visit = self._config, 0, 0
        per_visit = _batches_per_visit(config)
        while True:
            if number + per_visit <= first:
                number, visit = number + per_visit, visit + 1
                continue
            groups, waited = _wait_for(shard_path(self._folder, visit % config.shards))
            for batch in _visit(config, groups, visit):
                if number >= first and (number - first) % self._workers.count == 0:
                    yield _load(config, *batch, waited=waited)
                    waited = 0.0
                number += 1
            visit += 1


def _batches_per_visit(config: PretrainConfig) -> int:
    return len(NANO_SIZES) * (config.shard_scenes // len(NANO_SIZES) // config.batch_size)


def _visit(
    config: PretrainConfig, groups: list[Group], visit: int
) -> list[tuple[Group, str, list[int]]]:
    """Which scenes go together, and with which kind of caption."""
    rng = np.random.default_rng((config.seed, 4, visit))
    chosen = []
    for group in groups:
        rows = rng.permutation(len(group.latents))
        rows = rows[: len(rows) // config.batch_size * config.batch_size]
        lengths = group.lengths["dense"].numpy()[rows]
        rows = rows[np.argsort(lengths, kind="stable")]
        for part in rows.reshape(-1, config.batch_size):
            kind = "brief" if rng.random() < config.brief_share else "dense"
            chosen.append((group, kind, [int(i) for i in rng.permutation(part)]))
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _load(
    config: PretrainConfig, group: Group, kind: str, rows: list[int], *, waited: float
) -> Batch:
    captioned = len(rows) - round(config.caption_dropout * len(rows))
    features, mask = group.text(kind, rows[:captioned])
    return Batch(group.size, group.latents[rows], features, mask, group.labels[rows], waited)


def _wait_for(path: Path) -> tuple[list[Group], float]:
    started = time.monotonic()
    while not path.is_file():
        time.sleep(1.0)
    return read_shard(path), time.monotonic() - started
