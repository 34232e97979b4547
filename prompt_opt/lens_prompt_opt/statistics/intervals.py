"""Intervals for a mean gain from one value per request."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, fsum, sqrt
from operator import itemgetter, mul
from statistics import fmean
from typing import Protocol

from lens_prompt_opt.statistics.betting import betting_interval

_NOTHING = 1e-9
"""Standard errors below this are rounding."""

_SMALL = 256
"""Places below this fit a byte each."""


class IntervalMethod(Protocol):
    """A way to put an interval around a mean."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    def interval(self, values: Sequence[float], confidence: float) -> tuple[float, float]:
        """An interval for the mean of independent `values` in [-1, 1], one per request."""
        ...


@dataclass(frozen=True)
class BettingInterval:
    """Covers at least as often as it says for every distribution and sample size."""

    name: str = "betting"

    def interval(self, values: Sequence[float], confidence: float) -> tuple[float, float]:
        """See `IntervalMethod.interval`."""
        return betting_interval(values, confidence=confidence, lowest=-1.0, highest=1.0)


@dataclass(frozen=True)
class ClusterBootstrap:
    """Studentised bootstrap over requests: much narrower than betting, and asymptotic.

    Requests are drawn with replacement, all their pictures together, and the quantiles of the
    studentised mean take the place of Student's (Efron and Tibshirani 1993, chapter 12).

    Attributes:
        resamples: How many samples are drawn.
        seed: Seed of the drawing.
    """

    resamples: int = 2000
    seed: int = 0
    name: str = "cluster-bootstrap"

    def interval(self, values: Sequence[float], confidence: float) -> tuple[float, float]:
        """See `IntervalMethod.interval`."""
        count = len(values)
        if count < 2:
            return -1.0, 1.0
        mean, error = fmean(values), _error(values)
        scores = sorted(self._scores([value - mean for value in values]))
        if not scores or error < _NOTHING:
            return betting_interval(values, confidence=confidence, lowest=-1.0, highest=1.0)
        tail = (1 - confidence) / 2
        low = scores[min(ceil((1 - tail) * len(scores)), len(scores) - 1)]
        high = scores[int(tail * len(scores))]
        return max(mean - low * error, -1.0), min(mean - high * error, 1.0)

    def _scores(self, centred: Sequence[float]) -> Iterator[float]:
        """Studentised means of samples of values that have mean 0."""
        count = len(centred)
        for indices in _resamples(self.seed, count, self.resamples):
            sample = itemgetter(*indices)(centred)
            total = sum(sample)
            squares = sum(map(mul, sample, sample)) - total * total / count
            error = sqrt(max(squares, 0.0) / (count - 1) / count)
            if error > _NOTHING:
                yield total / count / error


@lru_cache(maxsize=32)
def _resamples(seed: int, count: int, number: int) -> tuple[bytes | tuple[int, ...], ...]:
    """Places drawn with replacement; the same for all values of one count."""
    rng = random.Random(seed)
    places = range(count)
    pack = bytes if count <= _SMALL else tuple
    return tuple(pack(rng.choices(places, k=count)) for _ in range(number))


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    mean = fsum(values) / len(values)
    return sqrt(fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
