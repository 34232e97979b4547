"""The deterministic order of the data: which bucket and which samples come next.

Batches are numbered over all processes. Batch `n` of a run is the same regardless of the number of
processes or threads, so a position in the data is one number per bucket.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_DRAW, _EPOCH, _WINDOW, _RESAMPLE = 41, 42, 43, 44

K = TypeVar("K")
V = TypeVar("V")
OrderKind = Literal["epochs", "resampled"]
Address = tuple[int, int]
"""Index of a shard within its bucket, and of a sample within the shard."""


class SampleOrder(Protocol):
    """An endless stream of a bucket's samples."""

    def address(self, position: int) -> Address:
        """Return the address of the sample at a position in the stream."""
        ...


class EpochOrder:
    """Every sample once per epoch, endlessly, in a different order each epoch.

    Shards are shuffled, and the samples of a few neighbouring shards are mixed with each other, so
    only these few are read at a time.

    Args:
        sizes: Number of samples in each shard.
        seed: Integers that determine the order.
        window: Number of shards to mix.
    """

    def __init__(self, sizes: Sequence[int], seed: tuple[int, ...], window: int) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._seed = seed
        self._window = max(1, window)
        self._total = int(self._sizes.sum())
        self._epochs: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def address(self, position: int) -> Address:
        """See `SampleOrder.address`."""
        epoch, place = divmod(position, self._total)
        shards, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        inside = place - (int(ends[window - 1]) if window else 0)
        shard, row = self._mixed(epoch, window, shards)[inside]
        return int(shard), int(row)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the shards, and where each window ends."""
        if epoch not in self._epochs:
            rng = np.random.default_rng((*self._seed, _EPOCH, epoch))
            shards = rng.permutation(len(self._sizes))
            ends = self._sizes[shards].cumsum()[self._window - 1 :: self._window]
            if not len(ends) or ends[-1] != self._total:
                ends = np.append(ends, self._total)
            _remember(self._epochs, epoch, (shards, ends), 2)
        return self._epochs[epoch]

    def _mixed(self, epoch: int, window: int, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the addresses `[samples, 2]` of a window, in reading order."""
        key = (epoch, window)
        if key not in self._windows:
            chosen = shards[window * self._window : (window + 1) * self._window]
            counts = self._sizes[chosen]
            rows = np.concatenate([np.arange(count) for count in counts])
            places = np.stack([np.repeat(chosen, counts), rows], axis=1)
            rng = np.random.default_rng((*self._seed, _WINDOW, epoch, window))
            _remember(self._windows, key, places[rng.permutation(len(places))], 4)
        return self._windows[key]


class ResampledOrder:
    """Samples drawn independently from the whole bucket, with replacement.

    Args:
        sizes: Number of samples in each shard.
        seed: Integers that determine the order.
    """

    def __init__(self, sizes: Sequence[int], seed: tuple[int, ...]) -> None:
        self._ends = np.asarray(sizes, dtype=np.int64).cumsum()
        self._seed = seed

    def address(self, position: int) -> Address:
        """See `SampleOrder.address`."""
        rng = np.random.default_rng((*self._seed, _RESAMPLE, position))
        place = int(rng.integers(int(self._ends[-1])))
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return shard, place - (int(self._ends[shard - 1]) if shard else 0)


@dataclass(frozen=True)
class Draw:
    """The contents of a batch.

    Attributes:
        number: Number of the batch, over all processes.
        bucket: Name of its bucket.
        first: Position of its first sample in the bucket's stream.
        count: Number of samples.
    """

    number: int
    bucket: str
    first: int
    count: int


@dataclass(frozen=True)
class BatchPlan:
    """Draws buckets at random and takes each bucket's samples in order.

    Attributes:
        seed: Seed of the draws.
        shares: Probability of every bucket.
        batch_sizes: Batch size of every bucket.
    """

    seed: int
    shares: Mapping[str, float]
    batch_sizes: Mapping[str, int]

    def draw(self, number: int, taken: Mapping[str, int]) -> Draw:
        """Return the draw of batch `number`, given the samples taken by the batches before it."""
        names = list(self.shares)
        odds = np.array([self.shares[name] for name in names])
        rng = np.random.default_rng((self.seed, _DRAW, number))
        bucket = names[int(rng.choice(len(names), p=odds / odds.sum()))]
        return Draw(number, bucket, taken.get(bucket, 0), self.batch_sizes[bucket])


def make_order(
    kind: OrderKind, sizes: Sequence[int], seed: tuple[int, ...], window: int
) -> SampleOrder:
    """Create an order by name."""
    return EpochOrder(sizes, seed, window) if kind == "epochs" else ResampledOrder(sizes, seed)


def _remember(kept: "OrderedDict[K, V]", key: K, value: V, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
