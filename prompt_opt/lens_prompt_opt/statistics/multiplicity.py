"""How the study-wide error rate is shared among challengers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Tried(NamedTuple):
    """An earlier test: its level, and whether it accepted."""

    level: float
    accepted: bool


class ErrorSharing(Protocol):
    """A rule for the level of the next test."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    def next_level(self, alpha: float, tried: Sequence[Tried]) -> float:
        """The level of the next test, given the earlier ones."""
        ...


@dataclass(frozen=True)
class OnlineFallback:
    """Test k gets alpha * first * (1 - first)^(k - 1); an accepting test passes its level on.

    Family-wise error rate: the probability that a study accepts any challenger whose gain does not
    exceed the minimum is at most alpha. Until the first such mistake, every share of alpha is held
    by at most one challenger without gain, so the levels of those challengers add up to at most
    alpha, whatever the number of tests (Tian and Ramdas 2021, "online fallback").

    Attributes:
        first: Share of alpha for the first test, and share of the rest for each later one.
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
    """Each of `tests` tests gets alpha / tests (Bonferroni); later ones get practically nothing.

    Attributes:
        tests: Planned number of tests.
        name: Name for records.
    """

    tests: int = 5
    name: str = "equal-shares"

    def next_level(self, alpha: float, tried: Sequence[Tried]) -> float:
        """See `ErrorSharing.next_level`; close to zero after the planned tests."""
        return alpha / self.tests if len(tried) < self.tests else 1e-12
