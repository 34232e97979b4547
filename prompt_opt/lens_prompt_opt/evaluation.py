"""The seam between a study and whatever turns a system prompt and a cell into a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.journal import Journal
from lens_prompt_opt.requests import StudyRequest
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.revision import Statement
from lens_reasoner.types import Rubric

Task = tuple[SystemPrompt, Cell]
"""A prompt and the cell it is to be evaluated on."""


class Evaluator(Protocol):
    """Rewrites, draws and judges, and enters what it cost in the ledger."""

    @property
    def names(self) -> Mapping[str, str]:
        """Names of its parts for records, by stage."""
        ...

    @property
    def generators(self) -> int:
        """Number of generators, numbered as in `Cell.generator`."""
        ...

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt that every generator reads in full; None if unknown."""
        ...

    async def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        """What each prompt does on its cell, in the order of the tasks.

        Raises:
            StudyInterruptedError: If a service is out; what was paid for is kept.
        """
        ...

    async def statements(self, outcomes: Sequence[Outcome]) -> list[Mapping[str, Statement]]:
        """For each outcome, what its rewrite says about its criteria, as far as it is known."""
        ...

    def rubric(self, request: str) -> Rubric | None:
        """The criteria of a request, by its id; None before they were needed."""
        ...


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator is given by its study.

    Attributes:
        requests: All requests by id.
        journal: Where results are kept.
        ledger: Where spending is entered.
    """

    requests: Mapping[str, StudyRequest]
    journal: Journal
    ledger: Ledger


EvaluatorFactory = Callable[[EvaluationContext], Evaluator]
