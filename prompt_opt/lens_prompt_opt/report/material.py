"""The input of a page: a result, and what its run directory adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.result import PicturePair, StudyResult
from lens_prompt_opt.study_description import GateDescription, StudyDescription

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """A finished study.

    Attributes:
        result: The result.
        study: Description of the study; None without a run directory.
        pictures: Folder of the images; None without a run directory.
    """

    result: StudyResult
    study: StudyDescription | None = None
    pictures: Path | None = None

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """All candidates by id, in the order they were made."""
        return {record.candidate.id: record.candidate for record in self.result.history.candidates}

    @property
    def seed(self) -> Candidate:
        """The candidate the study started from."""
        return self.result.best.lineage[0]

    @cached_property
    def decisions(self) -> dict[str, list[Decision]]:
        """Challenges by challenger."""
        found: dict[str, list[Decision]] = {}
        for decision in self.result.history.decisions:
            found.setdefault(decision.challenger, []).append(decision)
        return found

    @cached_property
    def accepted(self) -> tuple[str, ...]:
        """Ids of the accepted candidates, in order."""
        return tuple(d.challenger for d in self.result.history.decisions if d.accepted)

    @property
    def gate(self) -> GateDescription | None:
        """How prompts were accepted; None if unknown."""
        return None if self.study is None else self.study.gate

    @property
    def betting(self) -> bool:
        """Whether challenges were decided by a betting test, whose evidence is an e-value."""
        return self.gate is not None and self.gate.method.startswith("BettingTest")

    def tested(self, edit: SectionEdit) -> SectionEdit | None:
        """The last test of an edit with this section and text."""
        for known in reversed(self.result.history.hypotheses):
            if (known.section, known.kind, known.text) == (edit.section, edit.kind, edit.text):
                return known
        return None

    def scored_pairs(self) -> list[tuple[float, PicturePair]]:
        """Pairs with a score under both prompts, each with its gain."""
        return [
            (pair.after.score - pair.before.score, pair)
            for pair in self.result.pictures
            if pair.after.score is not None and pair.before.score is not None
        ]


def evenly_spaced(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced and including the first and the last."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (most - 1))] for i in range(most)]
