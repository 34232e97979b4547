"""Evidence by betting, valid at every look, because fair odds make no one rich.

Let x_1, x_2, ... lie in [lowest, highest], each with conditional mean at most m given the past. A
gambler who bets the share b <= 1 / (m - lowest) of the capital on "x exceeds m" multiplies it by 1
+ b (x_t - m), whose conditional mean is at most 1. The capital, and any average over gamblers with
different shares, is a nonnegative supermartingale. By Ville's inequality it ever reaches 1 / alpha
with probability at most alpha. See Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting" (2024), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, fsum, log, log1p

_SHARES = (0.02, 0.05, 0.1, 0.16, 0.24, 0.34, 0.46, 0.6, 0.76, 0.95)
_HINT_WEIGHT = 0.8


class BettingEvidence:
    """Evidence against "the mean is at most `null_mean`", as the logarithm of the capital.

    The capital is averaged over fixed shares, so the variance need not be known beforehand.
    """

    def __init__(self, null_mean: float, *, lowest: float, hint: float | None = None) -> None:
        """Start with capital 1.

        Args:
            null_mean: The hypothesised maximum m of the mean; above `lowest`.
            lowest: Smallest possible observation.
            hint: A share that should work well, based on data independent of the observations; it
                gets most of the capital. It cannot harm validity.

        Raises:
            ValueError: `null_mean` is not above `lowest`.
        """
        if not null_mean > lowest:
            raise ValueError(f"null_mean={null_mean} is not above the smallest value {lowest}")
        most = 1.0 / (null_mean - lowest)
        shares = [share * most for share in _SHARES]
        weights = [1.0 / len(shares)] * len(shares)
        if hint is not None:
            shares.append(min(max(hint, shares[0]), shares[-1]))
            weights = [weight * (1 - _HINT_WEIGHT) for weight in weights] + [_HINT_WEIGHT]
        self._null_mean = null_mean
        self._shares = tuple(shares)
        self._logs = [log(weight) for weight in weights]

    def update(self, values: Iterable[float]) -> None:
        """Settle the bets on `values`, in order."""
        for value in values:
            step = value - self._null_mean
            self._logs = [
                capital + log1p(share * step)
                for capital, share in zip(self._logs, self._shares, strict=True)
            ]

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital; level alpha requires log(1 / alpha)."""
        top = max(self._logs)
        return top + log(fsum(exp(value - top) for value in self._logs))


def log_optimal_share(gain: float, variance: float, *, most: float) -> float:
    """The share with the fastest growth if the mean is `gain` above the null, to second order."""
    if gain <= 0:
        return 0.0
    return min(gain / (variance + gain * gain), most)


def growth_per_observation(gain: float, variance: float, *, most: float) -> float:
    """Expected growth of the log capital per observation at the best share, to second order."""
    share = log_optimal_share(gain, variance, most=most)
    return share * gain - share * share * (variance + gain * gain) / 2


def betting_interval(
    values: Sequence[float], *, confidence: float, lowest: float, highest: float
) -> tuple[float, float]:
    """A confidence interval for the mean of independent values in [lowest, highest].

    Valid for every distribution and sample size, and at every look. It contains the means against
    which neither upward nor downward bets reach 2 / (1 - confidence).
    """
    threshold = log(2.0 / (1.0 - confidence))
    if not values:
        return lowest, highest
    mirrored = [-value for value in values]
    low = _first_kept(values, threshold, lowest, highest)
    high = -_first_kept(mirrored, threshold, -highest, -lowest)
    return low, high


def _first_kept(values: Sequence[float], threshold: float, lowest: float, highest: float) -> float:
    """Smallest mean that upward bets do not reject; the capital falls as the mean rises."""
    below, above = lowest, min(fsum(values) / len(values), highest)
    for _ in range(40):
        middle = (below + above) / 2
        evidence = BettingEvidence(max(middle, lowest + 1e-12), lowest=lowest)
        evidence.update(values)
        if evidence.log_capital >= threshold:
            below = middle
        else:
            above = middle
    return below
