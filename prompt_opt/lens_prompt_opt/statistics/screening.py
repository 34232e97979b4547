"""Screening many edits at once with a factorial design.

Every edit is active in half of the images. Cells come in pairs with complementary halves, so that
the difficulty of the request and part of the randomness of the seed cancel. Every pair says
something about every edit, so the precision per image does not fall with the number of edits, as it
does when they are tried one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import NamedTuple


def sign_rows(factors: int) -> list[tuple[int, ...]]:
    """Rows of a two-level design with uncorrelated factors (Sylvester's matrices).

    Together with its mirror image, as in pairs, no factor is correlated with a product of two
    others.
    """
    size = 8
    while size <= factors:
        size *= 2
    return [
        tuple(-1 if (row & column).bit_count() % 2 else 1 for column in range(1, factors + 1))
        for row in range(size)
    ]


class PairScore(NamedTuple):
    """One pair: which edits were active in its first image, and differences of pass rates.

    Attributes:
        signs: For each edit, 1 if it was active in the first image and -1 if in the second.
        differences: First minus second image, by kind of criterion; kinds without an answer in both
            are left out.
        shares: Weight of each kind in the score of this request.
    """

    signs: tuple[int, ...]
    differences: Mapping[str, float]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class EffectPrior:
    """Prior for the effects of edits on pass rates.

    An edit aimed at counting may help counts a lot, and should affect little else. Most of the
    noise in a score comes from criteria that an edit has nothing to do with; this prior keeps that
    noise out of the estimate.

    Attributes:
        aimed: Standard deviation of an edit's effect on the kinds it aims at.
        aside: Standard deviation of its effect on all other kinds.
        unknown: Standard deviation for every kind, for edits without an aim.
    """

    aimed: float = 0.08
    aside: float = 0.02
    unknown: float = 0.05

    def deviation(self, kind: str, aims: Collection[str]) -> float:
        """Prior standard deviation of the effect on `kind` of an edit with `aims`."""
        if not aims:
            return self.unknown
        return self.aimed if kind in aims else self.aside


class Effect(NamedTuple):
    """Posterior of an edit's effect on the score.

    Attributes:
        gain: Mean.
        error: Standard deviation.
        aimed_gain: Mean effect on the pass rate of the kinds it aims at.
        aimed_error: Standard deviation of `aimed_gain`.
    """

    gain: float
    error: float
    aimed_gain: float
    aimed_error: float


def edit_effects(
    pairs: Sequence[PairScore], aims: Sequence[Collection[str]], prior: EffectPrior
) -> list[Effect]:
    """Bayesian regression of the pairs' differences on the edits, kind by kind.

    Args:
        pairs: The pairs.
        aims: For each edit, the kinds it aims at.
        prior: Prior for the effects.
    """
    kinds = sorted({kind for pair in pairs for kind in pair.shares})
    shares = {kind: fmean(pair.shares.get(kind, 0.0) for pair in pairs) for kind in kinds}
    count = len(aims)
    gains, variances = [0.0] * count, [0.0] * count
    aimed: list[list[tuple[float, float, float]]] = [[] for _ in aims]
    for kind in kinds:
        deviations = [prior.deviation(kind, aim) for aim in aims]
        means, spreads = _posterior(
            [(p.signs, p.differences[kind]) for p in pairs if kind in p.differences], deviations
        )
        for edit in range(count):
            gains[edit] += shares[kind] * means[edit]
            variances[edit] += shares[kind] ** 2 * spreads[edit]
            if not aims[edit] or kind in aims[edit]:
                aimed[edit].append((shares[kind], means[edit], spreads[edit]))
    return [
        Effect(gain, sqrt(variance), *_weighted(parts))
        for gain, variance, parts in zip(gains, variances, aimed, strict=True)
    ]


def _weighted(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    total = sum(share for share, _, _ in parts)
    if not total:
        return 0.0, 0.0
    mean = sum(share * value for share, value, _ in parts) / total
    return mean, sqrt(sum(share**2 * variance for share, _, variance in parts)) / total


def _posterior(
    rows: Sequence[tuple[tuple[int, ...], float]], deviations: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Means and variances of the effects on one kind, by ridge regression with a known prior."""
    count = len(deviations)
    noise = max(fmean([y * y for _, y in rows]), 0.02) if rows else 1.0
    matrix = [[0.0] * count for _ in range(count)]
    right = [0.0] * count
    for signs, y in rows:
        for i, sign in enumerate(signs):
            right[i] += sign * y / noise
            for j, other in enumerate(signs):
                matrix[i][j] += sign * other / noise
    for i, deviation in enumerate(deviations):
        matrix[i][i] += 1 / deviation**2
    inverse = _inverse(matrix)
    means = [sum(inverse[i][j] * right[j] for j in range(count)) for i in range(count)]
    return means, [inverse[i][i] for i in range(count)]


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Inverse of a positive definite matrix, by Gauss-Jordan elimination."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = rows[i][i]
        rows[i] = [value / pivot for value in rows[i]]
        for j in range(size):
            if j != i and rows[j][i]:
                factor = rows[j][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]
