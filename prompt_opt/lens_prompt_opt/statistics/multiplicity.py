"""How the study-wide error rate is shared among all challengers tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Tried(NamedTuple):
    """One earlier test: the level it was given, and whether it accepted."""

    level: float
    accepted: bool


class ErrorSharing(Protocol):
    """A rule for the level of the next test."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    def next_level(self, alpha: float, tried: Sequence[Tried]) -> float:
        """The level of the next test, given those before it."""
        ...


@dataclass(frozen=True)
class OnlineFallback:
    """Test k gets alpha * first * (1 - first)^(k - 1), and an accepting test hands its level on.

    Family-wise rate: the probability that a study accepts any challenger whose gain does not exceed
    the minimum is at most alpha. Until the first such mistake every share of alpha is held by at
    most one challenger without gain, so the levels of those challengers sum to at most alpha
    whatever the number of tests (Tian and Ramdas 2021, "online fallback").

    Attributes:
        first: Share of alpha for the first test, and of what is left for each one after it.
        name: Name for records.
    """

    first: float = 0.75
    name: str = "online-fallback"

    def next_level(self, alpha: float, tried: Sequence[Tried]) -> float:
        """See `ErrorSharing.next_level`."""
        own = alpha * self.first * (1 - self.first) ** len(tried)
        return own + (tried[-1].level if tried and tried[-1].accepted else 0.0)


@dataclass(frozen=True)
class EqualShares:
    """Each of `tests` tests gets alpha / tests (Bonferroni); later ones get nothing to accept with.

    Attributes:
        tests: Planned number of tests.
    """

    tests: int = 5
    name: str = "equal-shares"

    def next_level(self, alpha: float, tried: Sequence[Tried]) -> float:
        """See `ErrorSharing.next_level`; next to zero once the plan is used up."""
        return alpha / self.tests if len(tried) < self.tests else 1e-12
