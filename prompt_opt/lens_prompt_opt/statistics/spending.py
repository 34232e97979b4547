"""Alpha spending for group-sequential tests (Lan and DeMets 1983), one-sided.

The test statistic is treated as Brownian motion observed at the looks. A spending function
determines how much of alpha each look may spend, so looks need not be planned.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, pi, sqrt
from statistics import NormalDist
from typing import NamedTuple

_NORMAL = NormalDist()
_GRID = 200
_REACH = 8.0


def obrien_fleming(alpha: float, information: float) -> float:
    """Alpha spent by the fraction `information` in (0, 1]: little early, all by the end."""
    quantile = _NORMAL.inv_cdf(1 - alpha / 2)
    return 2 * (1 - _NORMAL.cdf(quantile / sqrt(min(information, 1.0))))


class Look(NamedTuple):
    """The state after a look.

    Attributes:
        score: The z value that must be exceeded.
        spent: Alpha spent so far.
        points: Grid of values of the motion below the boundary.
        masses: Probability of being near each point without having crossed.
    """

    score: float
    spent: float
    points: tuple[float, ...]
    masses: tuple[float, ...]


@lru_cache(maxsize=1024)
def look(alpha: float, times: tuple[float, ...]) -> Look:
    """The boundary at the last of `times`; all looks together cross with probability alpha.

    The density of paths that have not crossed is carried from look to look on a grid (Armitage,
    McPherson and Rowe 1969).

    Args:
        alpha: Probability of crossing by information fraction 1.
        times: Information fractions of the looks so far, increasing.
    """
    before = look(alpha, times[:-1]) if len(times) > 1 else None
    last, now = (times[-2] if before else 0.0), times[-1]
    spent = max(obrien_fleming(alpha, now), before.spent if before else 0.0)
    budget = max(spent - (before.spent if before else 0.0), 1e-15)
    low, high = -_REACH * sqrt(now), _REACH * sqrt(now)
    edge_low, edge = low, high
    for _ in range(60):
        middle = (edge_low + edge) / 2
        if _beyond(before, now - last, middle) > budget:
            edge_low = middle
        else:
            edge = middle
    width = (edge - low) / _GRID
    points = tuple(low + (i + 0.5) * width for i in range(_GRID))
    masses = _advanced(before, now - last, points, width)
    return Look(edge / sqrt(now), spent, points, masses)


def _beyond(before: Look | None, time: float, edge: float) -> float:
    """Probability of being beyond `edge` after `time` more."""
    spread = sqrt(time)
    if before is None:
        return 1 - _NORMAL.cdf(edge / spread)
    pairs = zip(before.points, before.masses, strict=True)
    return sum(mass * _NORMAL.cdf((point - edge) / spread) for point, mass in pairs)


def _advanced(
    before: Look | None, time: float, points: tuple[float, ...], width: float
) -> tuple[float, ...]:
    """Masses near `points` after `time` more."""
    scale = width / sqrt(2 * pi * time)
    if before is None:
        return tuple(scale * exp(-x * x / (2 * time)) for x in points)
    old = list(zip(before.points, before.masses, strict=True))
    return tuple(scale * sum(m * exp(-((x - p) ** 2) / (2 * time)) for p, m in old) for x in points)
