"""Alpha spending for group-sequential tests (Lan and DeMets 1983), one-sided.

The test statistic is treated as Brownian motion observed at the looks; how much of alpha may be
spent by each look follows from a spending function, so looks need not be planned.
"""

from __future__ import annotations

from math import exp, pi, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()
_GRID = 160
_REACH = 8.0


def obrien_fleming(alpha: float, information: float) -> float:
    """Alpha spent by the fraction `information` in (0, 1]: little early, all at the end."""
    quantile = _NORMAL.inv_cdf(1 - alpha / 2)
    return 2 * (1 - _NORMAL.cdf(quantile / sqrt(min(information, 1.0))))


class SpendingBoundary:
    """Boundaries for a Brownian motion so that it ever crosses with probability alpha.

    The density of paths that have not crossed is carried from look to look on a grid
    (Armitage, McPherson and Rowe 1969).
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._spent = 0.0
        self._time = 0.0
        self._points: list[float] = []
        self._masses: list[float] = []

    def next(self, information: float) -> float:
        """The z value to exceed at a look with this information fraction, above the last one."""
        budget = max(obrien_fleming(self._alpha, information) - self._spent, 1e-15)
        low, high = -_REACH * sqrt(information), _REACH * sqrt(information)
        edge = self._solve(information, budget, low, high)
        self._advance(information, low, edge)
        self._spent += budget
        self._time = information
        return edge / sqrt(information)

    def _solve(self, time: float, budget: float, low: float, high: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            if self._beyond(time, middle) > budget:
                low = middle
            else:
                high = middle
        return high

    def _beyond(self, time: float, edge: float) -> float:
        if not self._points:
            return 1 - _NORMAL.cdf(edge / sqrt(time))
        spread = sqrt(time - self._time)
        return sum(
            mass * _NORMAL.cdf((point - edge) / spread)
            for point, mass in zip(self._points, self._masses, strict=True)
        )

    def _advance(self, time: float, low: float, edge: float) -> None:
        width = (edge - low) / _GRID
        points = [low + (i + 0.5) * width for i in range(_GRID)]
        if self._points:
            spread = sqrt(time - self._time)
            scale = width / (spread * sqrt(2 * pi))
            old = list(zip(self._points, self._masses, strict=True))
            masses = [
                scale * sum(m * exp(-(((x - p) / spread) ** 2) / 2) for p, m in old) for x in points
            ]
        else:
            scale = width / sqrt(2 * pi * time)
            masses = [scale * exp(-x * x / (2 * time)) for x in points]
        self._points, self._masses = points, masses
