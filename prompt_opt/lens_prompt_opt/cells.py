"""Cells, which are what is evaluated, and their outcomes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

from lens_prompt_opt.requests import StudyRequest
from lens_reasoner.types import Answer

_SEED_BITS = 31
"""Seeds stay below 2**31, because every image server accepts those."""


class Cell(NamedTuple):
    """One evaluation: a request with its seeds. Prompts are compared on the same cells.

    Attributes:
        request: Id of the request.
        seed: Seed of the image.
        draw: Seed of the rewrite; cells of a request with the same `draw` share a rewrite.
        vote: Number of the judgement; cells that only differ in it share an image.
        generator: Index of the generator in the study.
    """

    request: str
    seed: int
    draw: int = 0
    vote: int = 0
    generator: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one prompt on one cell.

    Attributes:
        cell: The cell.
        score: Share of criteria met, in [0, 1]; None without a verdict. A request that the reasoner
            refused or answered unusably under this prompt, or whose rewrite the generator refused,
            scores 0, because leaving images out must not pay.
        answers: The judge's answers by criterion.
        rewrite: The prompt given to the generator; empty if the request was refused.
        image: Name of the image; empty if there is none.
        fingerprint: 64-bit perceptual hash of the image, if there is one.
        failure: Why there is no score, or why the score is 0 by refusal; empty otherwise.
        evidence: What the judge saw, by criterion.
        disputed: Criteria on which the judge's votes disagree.
    """

    cell: Cell
    score: float | None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    rewrite: str = ""
    image: str = ""
    fingerprint: int | None = None
    failure: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    disputed: frozenset[str] = frozenset()

    @property
    def refused(self) -> bool:
        """Whether the reasoner or the generator refused, so that there is no image."""
        return bool(self.failure) and self.score == 0.0

    def met(self, criterion: str) -> bool | None:
        """Whether a criterion was met; None if unknown. A refusal meets none."""
        if self.refused:
            return False
        answer = self.answers.get(criterion)
        return None if answer in {None, "cannot_tell"} else answer == "yes"


class CellStream:
    """The cells of one pass over requests; the order and the seeds follow from `name`.

    Every request appears once, with `pictures` images from each of `generators`, each image with
    its own rewrite. Equal names give equal cells, different names unrelated ones.
    """

    def __init__(
        self,
        requests: Sequence[StudyRequest],
        name: str,
        *,
        pictures: int,
        generators: Sequence[int] = (0,),
    ) -> None:
        order = [request.id for request in requests]
        random.Random(name).shuffle(order)
        self._order = order
        self._name = name
        self._pictures = pictures
        self._generators = tuple(generators)

    def __len__(self) -> int:
        """Number of requests."""
        return len(self._order)

    def of_request(self, request: str) -> list[Cell]:
        """The cells of one request."""
        return [
            Cell(
                request, image_seed(f"{name}:seed"), image_seed(f"{name}:draw"), generator=generator
            )
            for name in (f"{self._name}:{request}:{i}" for i in range(self._pictures))
            for generator in self._generators
        ]

    def blocks(self, requests_per_block: int) -> Iterator[list[Cell]]:
        """The cells of `requests_per_block` requests at a time; the last block may be smaller."""
        for first in range(0, len(self._order), requests_per_block):
            names = self._order[first : first + requests_per_block]
            yield [cell for name in names for cell in self.of_request(name)]


def image_seed(name: str) -> int:
    """A seed that only depends on `name`."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def paired_differences(
    challenger: Iterable[Outcome], incumbent: Iterable[Outcome]
) -> dict[str, float]:
    """Mean score difference by request, over cells where both have a score."""
    base = {outcome.cell: outcome.score for outcome in incumbent}
    found: dict[str, list[float]] = {}
    for outcome in challenger:
        other = base.get(outcome.cell)
        if outcome.score is not None and other is not None:
            found.setdefault(outcome.cell.request, []).append(outcome.score - other)
    return {request: fsum(values) / len(values) for request, values in found.items()}


def undecided_share(outcomes: Iterable[Outcome]) -> float | None:
    """Share of criteria that the judge could not decide; None if there are no criteria."""
    found = [
        answer == "cannot_tell"
        for outcome in outcomes
        if not outcome.cell.vote
        for answer in outcome.answers.values()
    ]
    return sum(found) / len(found) if found else None


def mean_score(outcomes: Iterable[Outcome]) -> float | None:
    """Mean over requests of their mean scores; None if there are no scores."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.score is not None:
            found.setdefault(outcome.cell.request, []).append(outcome.score)
    if not found:
        return None
    return fsum(fsum(values) / len(values) for values in found.values()) / len(found)
