"""Sequential tests of a challenger against an incumbent, from paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log, sqrt
from statistics import NormalDist, fmean, variance
from typing import Literal, Protocol

from lens_prompt_opt.statistics.betting import (
    BettingEvidence,
    growth_per_observation,
    log_optimal_share,
)
from lens_prompt_opt.statistics.spending import look

Finding = Literal["better", "worse", "no_difference", "undecided"]
"""A test's current finding; "undecided" calls for more data."""

LOWEST, HIGHEST = -1.0, 1.0
"""Bounds of a difference of two scores in [0, 1]."""

_FLOOR = 1e-4


@dataclass(frozen=True)
class Expectation:
    """Expectation about the differences, from data that the test does not use.

    Attributes:
        gain: Expected mean difference.
        variance: Expected variance of one difference.
    """

    gain: float
    variance: float


class SequentialTest(Protocol):
    """A running test."""

    def update(self, differences: Sequence[float]) -> None:
        """Add a block of differences, challenger minus incumbent, one per request."""
        ...

    @property
    def finding(self) -> Finding:
        """The current finding; may be read after every block."""
        ...

    @property
    def evidence(self) -> float:
        """Progress towards "better": 0 at the start, 1 at acceptance."""
        ...


class TestMethod(Protocol):
    """A kind of sequential test."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    def start(
        self, *, level: float, min_gain: float, horizon: int, expected: Expectation | None = None
    ) -> SequentialTest:
        """Start a test.

        Its probability of finding "better" is at most `level` if the mean difference is at most
        `min_gain`, however often it is looked at.

        Args:
            level: Error rate of this test, in (0, 1).
            min_gain: The gain that must be exceeded.
            horizon: Maximum number of differences.
            expected: Expectation from other data; affects power and stopping, never validity.
        """
        ...


@dataclass(frozen=True)
class BettingTest:
    """The betting e-process; exact for every distribution of bounded differences.

    Attributes:
        worse_level: Level for the finding "worse". Wrongly rejecting a good challenger costs an
            improvement but makes no false claim, so this can be loose.
        optimism: How many standard errors above its mean the gain is assumed to be when checking
            whether "better" can still be reached before the horizon.
        patience: Number of requests before that check starts.
        name: Name for records.
    """

    worse_level: float = 0.2
    optimism: float = 2.0
    patience: int = 16
    name: str = "betting"

    def start(
        self, *, level: float, min_gain: float, horizon: int, expected: Expectation | None = None
    ) -> SequentialTest:
        """See `TestMethod.start`."""
        return _BettingRun(self, level, min_gain, horizon, expected)


class _BettingRun:
    def __init__(
        self,
        method: BettingTest,
        level: float,
        min_gain: float,
        horizon: int,
        expected: Expectation | None,
    ) -> None:
        self._method = method
        self._target = log(1 / level)
        self._min_gain = min_gain
        self._horizon = horizon
        self._most = 1 / (min_gain - LOWEST)
        hint = None
        if expected is not None:
            hint = log_optimal_share(expected.gain - min_gain, expected.variance, most=self._most)
        self._better = BettingEvidence(min_gain, lowest=LOWEST, hint=hint)
        self._worse = BettingEvidence(-max(min_gain, 0.0), lowest=-HIGHEST)
        self._values: list[float] = []
        self._peak = 0.0

    def update(self, differences: Sequence[float]) -> None:
        self._values.extend(differences)
        self._better.update(differences)
        self._worse.update(-value for value in differences)
        self._peak = max(self._peak, self._better.log_capital)

    @property
    def evidence(self) -> float:
        return max(0.0, self._peak / self._target)

    @property
    def finding(self) -> Finding:
        if self._peak >= self._target:
            return "better"
        if self._worse.log_capital >= log(1 / self._method.worse_level):
            return "worse"
        if len(self._values) >= self._horizon or self._hopeless():
            return "no_difference"
        return "undecided"

    def _hopeless(self) -> bool:
        count = len(self._values)
        if count < self._method.patience:
            return False
        spread = max(variance(self._values), _FLOOR)
        hoped = fmean(self._values) + self._method.optimism * sqrt(spread / count)
        growth = growth_per_observation(hoped - self._min_gain, spread, most=self._most)
        reachable = self._better.log_capital + (self._horizon - count) * growth
        return reachable < self._target


@dataclass(frozen=True)
class SpendingTest:
    """Normal tests at each look with O'Brien-Fleming-like alpha spending.

    Needs fewer requests than betting, but holds its level only as far as the mean of the
    differences is normal. That fails if a challenger gains a little on most requests and loses a
    lot on a few, because those losses may not have been seen yet. The variance is taken around the
    minimum gain and includes a few pseudo-observations of typical size, which keeps the level for
    less skewed differences.

    Attributes:
        worse_score: Below this z value the finding is "worse".
        hopeless: The finding is "no_difference" if the conditional power, under the current
            estimate plus one standard error, falls below this.
        imagined: Number of pseudo-observations.
        usual: Their size, as a standard deviation.
        name: Name for records.
    """

    worse_score: float = -1.3
    hopeless: float = 0.2
    imagined: float = 8.0
    usual: float = 0.22
    name: str = "alpha-spending"

    def start(
        self, *, level: float, min_gain: float, horizon: int, expected: Expectation | None = None
    ) -> SequentialTest:
        """See `TestMethod.start`; `expected` is not used."""
        return _SpendingRun(self, level, min_gain, horizon)

    def score(self, differences: Sequence[float], min_gain: float) -> float:
        """The z value of the gain beyond the minimum."""
        excess = [value - min_gain for value in differences]
        squares = fsum(value * value for value in excess) + self.imagined * self.usual**2
        spread = squares / (len(excess) + self.imagined)
        return fsum(excess) / sqrt(spread * len(excess))


class _SpendingRun:
    def __init__(self, method: SpendingTest, level: float, min_gain: float, horizon: int) -> None:
        self._method = method
        self._level = level
        self._times: tuple[float, ...] = ()
        self._last_edge = NormalDist().inv_cdf(1 - level)
        self._min_gain = min_gain
        self._horizon = horizon
        self._values: list[float] = []
        self._score = 0.0
        self._edge = float("inf")
        self._better = False

    def update(self, differences: Sequence[float]) -> None:
        self._values.extend(differences)
        count = len(self._values)
        if not differences or count > self._horizon:
            return
        self._score = self._method.score(self._values, self._min_gain)
        self._times = (*self._times, count / self._horizon)
        self._edge = look(self._level, self._times).score
        self._better = self._better or self._score >= self._edge

    @property
    def evidence(self) -> float:
        return 1.0 if self._better else max(0.0, min(0.999, self._score / self._edge))

    @property
    def finding(self) -> Finding:
        count = len(self._values)
        if self._better:
            return "better"
        if count >= 8 and self._score <= self._method.worse_score:
            return "worse"
        if count >= self._horizon or (count >= 8 and self._power() < self._method.hopeless):
            return "no_difference"
        return "undecided"

    def _power(self) -> float:
        """Probability of exceeding the last boundary at the horizon, under an optimistic gain."""
        time = len(self._values) / self._horizon
        drift = (self._score + 1.0) / sqrt(time)
        end_mean = self._score * sqrt(time) + drift * (1 - time)
        return 1 - NormalDist().cdf((self._last_edge - end_mean) / sqrt(max(1 - time, 1e-9)))
