"""Sequential tests of one challenger against one incumbent, from paired differences."""

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
"""What a test says so far; "undecided" asks for more data."""

LOWEST, HIGHEST = -1.0, 1.0
"""Bounds of a difference of two scores in [0, 1]."""

_FLOOR = 1e-4


@dataclass(frozen=True)
class Expectation:
    """What is thought of the differences beforehand, from data the test will not see.

    Attributes:
        gain: Expected mean difference.
        variance: Expected variance of one difference.
    """

    gain: float
    variance: float


class SequentialTest(Protocol):
    """A test under way."""

    def update(self, differences: Sequence[float]) -> None:
        """Take in one block of differences, challenger minus incumbent, one per request."""
        ...

    @property
    def finding(self) -> Finding:
        """What can be said now; may be looked at after every block."""
        ...

    @property
    def evidence(self) -> float:
        """How far it is on the way to "better": 0 at the start, 1 at acceptance."""
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
        """Begin a test.

        It says "better" with probability at most `level` if the mean difference is at most
        `min_gain`, however often one looks.

        Args:
            level: The error rate of this one test, in (0, 1).
            min_gain: The gain that must be exceeded.
            horizon: Most differences there will be.
            expected: What other data say; affects power and stopping, never validity.
        """
        ...


@dataclass(frozen=True)
class BettingTest:
    """The betting e-process; exact for every distribution of bounded differences.

    Attributes:
        worse_level: Level at which "worse" is said. Rejecting a good challenger by mistake costs
            an improvement and no false claim, so it can be loose.
        optimism: How many standard errors above its mean the gain is assumed to be when asking
            whether "better" can still be reached before the horizon.
        patience: Requests before that is asked.
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

    Needs fewer requests than betting, and holds its level only as far as the mean of the
    differences is normal. It is not where a challenger gains a little on most requests and fails
    on a few: such losses may not have been seen yet. The variance is taken around the minimum gain
    and joined by a few imagined differences of usual size, which keeps the level for differences
    that are not as skewed as that.

    Attributes:
        worse_score: "worse" is said below this z value.
        hopeless: "no_difference" is said when the conditional power under the current estimate,
            raised by one standard error, falls below this.
        imagined: Number of imagined differences.
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
        """The z value of the gain above the minimum."""
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
        """Chance to be above the last boundary at the horizon, if the gain is as hoped."""
        time = len(self._values) / self._horizon
        drift = (self._score + 1.0) / sqrt(time)
        end_mean = self._score * sqrt(time) + drift * (1 - time)
        return 1 - NormalDist().cdf((self._last_edge - end_mean) / sqrt(max(1 - time, 1e-9)))
