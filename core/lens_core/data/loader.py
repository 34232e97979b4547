"""The data loader of every training stage: endless, exactly resumable batches of one bucket each.

Batches are numbered over all processes. Each is a function of the seed, the shards and the number
of samples taken before it. Every process computes all draws but reads only its own batches, so
processes may use different buckets at once, need no communication, and none runs out of data.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from lens_core.data.batches import BucketBatch, LoadedSample
from lens_core.data.buckets import BATCH_SIZES, Bucket
from lens_core.data.errors import DamagedShardError, DataError, ManifestError
from lens_core.data.fitting import decode_image, pixels
from lens_core.data.manifest import ShardRecord
from lens_core.data.order import Address, BatchPlan, Draw, OrderKind, SampleOrder, make_order
from lens_core.data.policy import DataPolicy, tally
from lens_core.data.reading import ShardFolder
from lens_core.errors import ParameterError

_CAPTION, _REPAIR = 45, 46
_REPAIRS = 100
"""Maximum number of replacements tried for one unusable sample."""


class LoaderSettings(BaseModel):
    """Settings of the data stream; `identity` must not change when a run is resumed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    """Seed of all random choices."""
    batch_sizes: dict[int, int] = Field(default_factory=lambda: dict(BATCH_SIZES))
    """Batch size by the bucket's base."""
    bucket_shares: Literal["samples", "uniform"] | dict[str, float] = "samples"
    """How often buckets are drawn: so that all images are equally frequent (`samples`), all buckets
    equally often (`uniform`), or with a weight per bucket name."""
    caption_shares: dict[str, float] = Field(default_factory=dict)
    """Weight of each kind of caption. If empty, each image's first caption is used."""
    order: OrderKind = "epochs"
    """`epochs` uses every image of a bucket once before repeating; `resampled` draws with
    replacement."""
    window: int = Field(8, gt=0)
    """Number of shards whose samples are mixed with each other."""
    policy: DataPolicy = DataPolicy()
    """What to do about unusable samples."""
    threads: int = Field(2, ge=0)
    """Number of prefetching threads; 0 reads each batch when it is requested."""
    prefetch: int = Field(4, gt=0)
    """Number of batches to prefetch."""

    def identity(self) -> dict[str, Any]:
        """The settings that a saved position depends on."""
        kept = {"seed", "batch_sizes", "bucket_shares", "order", "window", "caption_shares"}
        return self.model_dump(mode="json", include=kept)


class _SavedPosition(BaseModel):
    """The state returned by `BucketLoader.state`."""

    model_config = ConfigDict(frozen=True, strict=True)

    data: str
    settings: dict[str, Any]
    number: NonNegativeInt
    taken: dict[str, NonNegativeInt]
    skipped: dict[str, NonNegativeInt]


@dataclass(frozen=True)
class Cursor:
    """A position in the stream.

    Attributes:
        number: Number of the next batch, over all processes.
        taken: Samples of every bucket used by the batches before it.
    """

    number: int
    taken: dict[str, int]


class BucketLoader:
    """Iterates over batches of a folder of shards, for one of several processes.

    Args:
        data: The shards.
        settings: Order, sizes and policy.
        rank: Index of this process.
        ranks: Number of processes that share the stream.
        cached: Tells by content hash whether an image's latents are cached; if so, it is not
            decoded.

    Raises:
        ParameterError: A base has no batch size, shares name an unknown bucket, or caption weights
            are invalid.
    """

    def __init__(
        self,
        data: ShardFolder,
        settings: LoaderSettings,
        rank: int = 0,
        ranks: int = 1,
        cached: Callable[[str], bool] = lambda _: False,
    ) -> None:
        _check_captions(settings.caption_shares)
        self._data, self._settings = data, settings
        self._rank, self._ranks, self._cached = rank, ranks, cached
        self._buckets = {bucket.name: bucket for bucket in data.manifest.bucket_list()}
        self._shards: dict[str, list[ShardRecord]] = {name: [] for name in self._buckets}
        for shard in data.manifest.shards:
            if shard.samples:
                self._shards[shard.bucket].append(shard)
        self._orders = self._make_orders()
        sizes = _batch_sizes(self._buckets, settings)
        shares = _shares(self._shards, sizes, settings)
        self._plan = BatchPlan(settings.seed, shares, sizes)
        self._cursor = self._planned = Cursor(0, {})
        self._drawn: list[Draw] = []
        self._taken: dict[str, int] = {}
        self._ahead: deque[tuple[Future[BucketBatch], Cursor]] = deque()
        self._pool = ThreadPoolExecutor(settings.threads) if settings.threads else None
        self._counts: Counter[str] = Counter()
        self._waited = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Samples skipped by this process so far, by reason."""
        return dict(sorted(self._counts.items()))

    @property
    def waited(self) -> float:
        """Seconds spent waiting for batches since this loader was made."""
        return self._waited

    def __iter__(self) -> Iterator[BucketBatch]:
        return self

    def __next__(self) -> BucketBatch:
        """Return this process's next batch.

        Raises:
            DataError: The policy refuses a problem, or a bucket has no usable samples.
        """
        started = time.monotonic()
        if self._pool is None:
            draw, cursor = self._advance(self._cursor)
            batch = self._load(draw, self._addresses(draw))
        else:
            self._fill(self._pool)
            future, cursor = self._ahead.popleft()
            batch = future.result()
            self._fill(self._pool)
        waited = time.monotonic() - started
        self._cursor = cursor
        self._counts.update(batch.skipped)
        self._waited += waited
        return replace(batch, waited=waited)

    def batch(self, number: int) -> BucketBatch:
        """Return batch `number` of the stream without changing the position.

        Raises:
            DataError: As in `__next__`.
        """
        while len(self._drawn) <= number:
            self._drawn.append(self._plan.draw(len(self._drawn), self._taken))
            self._taken[self._drawn[-1].bucket] = self._drawn[-1].first + self._drawn[-1].count
        draw = self._drawn[number]
        return self._load(draw, self._addresses(draw))

    def state(self) -> dict[str, Any]:
        """Return the position after the batches returned so far, as JSON values.

        It is the same on every process that has received the same number of batches.
        """
        return {
            "data": self._data.manifest.fingerprint(),
            "settings": self._settings.identity(),
            "number": self._cursor.number,
            "taken": dict(sorted(self._cursor.taken.items())),
            "skipped": self.counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved position, with any number of processes and threads.

        Raises:
            ManifestError: It belongs to other shards.
            ParameterError: It belongs to other settings.
            ValidationError: It is not a value returned by `state`.
        """
        saved = _SavedPosition.model_validate(state)
        if saved.data != self._data.manifest.fingerprint():
            raise ManifestError(
                f"the saved position belongs to other shards than those in {self._data.folder}; "
                "give the same data, or start a new run"
            )
        own = self._settings.identity()
        if changed := sorted(name for name in own if saved.settings.get(name) != own[name]):
            raise ParameterError(
                f"the saved position was reached with other loader settings: {', '.join(changed)}; "
                "give the same, or start a new run"
            )
        self._drop_ahead()
        self._cursor = self._planned = Cursor(saved.number, saved.taken)
        self._counts = Counter(saved.skipped)

    def close(self) -> None:
        """Stop prefetching."""
        self._drop_ahead()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        while len(self._ahead) < self._settings.prefetch:
            draw, self._planned = self._advance(self._planned)
            future = pool.submit(self._load, draw, self._addresses(draw))
            self._ahead.append((future, self._planned))

    def _drop_ahead(self) -> None:
        for future, _ in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _advance(self, cursor: Cursor) -> tuple[Draw, Cursor]:
        """Return this process's next draw, and the position after all processes' draws."""
        taken = dict(cursor.taken)
        draws = []
        for number in range(cursor.number, cursor.number + self._ranks):
            draws.append(self._plan.draw(number, taken))
            taken[draws[-1].bucket] = draws[-1].first + draws[-1].count
        return draws[self._rank], Cursor(cursor.number + self._ranks, taken)

    def _addresses(self, draw: Draw) -> list[Address]:
        order = self._orders[draw.bucket]
        return [order.address(draw.first + index) for index in range(draw.count)]

    def _make_orders(self) -> dict[str, SampleOrder]:
        settings = self._settings
        return {
            name: make_order(
                settings.order,
                [shard.samples for shard in shards],
                (settings.seed, self._buckets[name].height, self._buckets[name].width),
                settings.window,
            )
            for name, shards in self._shards.items()
        }

    def _load(self, draw: Draw, addresses: list[Address]) -> BucketBatch:
        bucket, skipped = self._buckets[draw.bucket], list[DataError]()
        samples = [
            self._sample(bucket, draw.first + index, address, skipped)
            for index, address in enumerate(addresses)
        ]
        return BucketBatch(draw.number, bucket, tuple(samples), tally(skipped))

    def _sample(
        self, bucket: Bucket, position: int, address: Address, skipped: list[DataError]
    ) -> LoadedSample:
        """Return the sample at an address, or another of its bucket if it is unusable."""
        words = (self._settings.seed, _REPAIR, bucket.height, bucket.width, position)
        repairs = np.random.default_rng(words)
        shards = self._shards[bucket.name]
        for _ in range(_REPAIRS):
            try:
                return self._read(bucket, position, address)
            except DataError as error:
                self._settings.policy.check(error)
                skipped.append(error)
            shard = int(repairs.integers(len(shards)))
            address = (shard, int(repairs.integers(shards[shard].samples)))
        raise DamagedShardError(
            f"bucket {bucket.name} gave no usable sample in {_REPAIRS} tries; the last problem: "
            f"{skipped[-1]}"
        ) from skipped[-1]

    def _read(self, bucket: Bucket, position: int, address: Address) -> LoadedSample:
        stored = self._data.read(self._shards[bucket.name][address[0]], address[1])
        caption = stored.caption(self._caption_kind(bucket, position, list(stored.captions)))
        if self._cached(stored.content_hash):
            return LoadedSample(stored.name, stored.content_hash, None, caption)
        image = decode_image(stored.picture, stored.name)
        if (image.height, image.width) != bucket.size:
            raise DamagedShardError(
                f"{stored.name} is {image.width}x{image.height} in bucket {bucket.name}"
            )
        return LoadedSample(stored.name, stored.content_hash, pixels(image), caption)

    def _caption_kind(self, bucket: Bucket, position: int, present: list[str]) -> str:
        shares = self._settings.caption_shares
        if not shares:
            return present[0] if present else "caption"
        words = (self._settings.seed, _CAPTION, bucket.height, bucket.width, position)
        odds = np.array(list(shares.values()))
        chosen = np.random.default_rng(words).choice(len(odds), p=odds / odds.sum())
        return list(shares)[int(chosen)]


def _batch_sizes(buckets: dict[str, Bucket], settings: LoaderSettings) -> dict[str, int]:
    missing = sorted({b.base for b in buckets.values()} - settings.batch_sizes.keys())
    if missing:
        raise ParameterError(
            f"batch_sizes has no entry for the bases {missing}; it has {settings.batch_sizes}"
        )
    return {name: settings.batch_sizes[bucket.base] for name, bucket in buckets.items()}


def _shares(
    shards: dict[str, list[ShardRecord]], sizes: dict[str, int], settings: LoaderSettings
) -> dict[str, float]:
    """Return the probability of every bucket, in a fixed order."""
    wanted = settings.bucket_shares
    if wanted == "uniform":
        return dict.fromkeys(sorted(shards), 1 / len(shards))
    if wanted == "samples":
        weights = {name: sum(s.samples for s in shards[name]) / sizes[name] for name in shards}
    else:
        weights = {name: weight for name, weight in wanted.items() if weight > 0}
        if not weights or (unknown := sorted(weights.keys() - shards.keys())):
            raise ParameterError(
                f"bucket_shares must give a weight above 0 to some of {sorted(shards)}"
                + (f"; there are no {unknown}" if weights else "")
            )
    total = sum(weights.values())
    return {name: weights[name] / total for name in sorted(weights)}


def _check_captions(shares: Mapping[str, float]) -> None:
    weights = list(shares.values())
    if weights and not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
        raise ParameterError(
            f"caption_shares {dict(shares)} must be weights of 0 and more, one of them above 0"
        )
