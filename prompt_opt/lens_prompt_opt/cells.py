"""What is evaluated: a request under an image seed, and what came of it."""

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
"""Seeds stay below 2**31, which every image server accepts."""


class Cell(NamedTuple):
    """One thing to evaluate; the same cell is used for every prompt that is compared.

    Attributes:
        request: Id of the request.
        seed: Seed of the image.
        draw: Seed of the rewrite; cells of one request with the same draw share a rewrite.
        vote: Number of the judgement; cells that differ in nothing else share an image.
        generator: Place of the generator in the study.
    """

    request: str
    seed: int
    draw: int = 0
    vote: int = 0
    generator: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one prompt did on one cell.

    Attributes:
        cell: The cell.
        score: Share of criteria met, in [0, 1]; None if there is no verdict. A request that the
            prompt made the reasoner refuse or answer unusably, or whose rewrite the generator
            refused, scores 0: leaving images out must not pay.
        answers: The judge's answers by criterion.
        rewrite: The prompt that was drawn; empty if refused.
        image: Name of the image; empty if none was drawn.
        fingerprint: 64-bit perceptual hash of the image, where there is one.
        failure: Why there is no score, or why it is 0 by refusal; empty otherwise.
        evidence: What the judge saw, by criterion.
        disputed: Criteria about which the judge's votes disagree.
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
        """Whether reasoner or generator refused, so that nothing was drawn."""
        return bool(self.failure) and self.score == 0.0

    def met(self, criterion: str) -> bool | None:
        """Whether a criterion was met; None if that is not known. What was refused met none."""
        if self.refused:
            return False
        answer = self.answers.get(criterion)
        return None if answer in {None, "cannot_tell"} else answer == "yes"


class CellStream:
    """Cells of one pass over requests, in an order and with seeds drawn from a name.

    Every request comes once, with `pictures` images by each of `generators`, each with a rewrite
    of its own. Equal names give equal cells; different names give unrelated ones.
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
        """How many requests there are."""
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
        """The cells of so many requests at a time; the last block may be smaller."""
        for first in range(0, len(self._order), requests_per_block):
            names = self._order[first : first + requests_per_block]
            yield [cell for name in names for cell in self.of_request(name)]


def image_seed(name: str) -> int:
    """A seed that depends on `name` alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def paired_differences(
    challenger: Iterable[Outcome], incumbent: Iterable[Outcome]
) -> dict[str, float]:
    """Mean difference of score by request, over cells that both have a score for."""
    base = {outcome.cell: outcome.score for outcome in incumbent}
    found: dict[str, list[float]] = {}
    for outcome in challenger:
        other = base.get(outcome.cell)
        if outcome.score is not None and other is not None:
            found.setdefault(outcome.cell.request, []).append(outcome.score - other)
    return {request: fsum(values) / len(values) for request, values in found.items()}


def undecided_share(outcomes: Iterable[Outcome]) -> float | None:
    """Share of the criteria asked about that the judge could not tell; None if none was asked."""
    found = [
        answer == "cannot_tell"
        for outcome in outcomes
        if not outcome.cell.vote
        for answer in outcome.answers.values()
    ]
    return sum(found) / len(found) if found else None


def mean_score(outcomes: Iterable[Outcome]) -> float | None:
    """Mean over requests of their mean scores; None if nothing has a score."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.score is not None:
            found.setdefault(outcome.cell.request, []).append(outcome.score)
    if not found:
        return None
    return fsum(fsum(values) / len(values) for values in found.values()) / len(found)
