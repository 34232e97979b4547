"""The protocol for whatever turns a system prompt and a cell into a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.journal import Journal
from lens_prompt_opt.requests import StudyRequest
from lens_prompt_opt.stopping import StopSwitch
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.revision import Statement
from lens_reasoner.types import Rubric

Task = tuple[SystemPrompt, Cell]
"""A prompt and the cell to evaluate it on."""


class Evaluator(Protocol):
    """Rewrites, generates and judges, and enters the cost in the ledger."""

    @property
    def names(self) -> Mapping[str, str]:
        """Names of its parts for records, by stage."""
        ...

    @property
    def generators(self) -> tuple[str, ...]:
        """Unique names of the generators, in the order of `Cell.generator`."""
        ...

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt, in tokens, that every generator reads in full; None if unknown."""
        ...

    async def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate each prompt on its cell; outcomes are in the order of the tasks.

        Raises:
            StudyInterruptedError: A service is down; finished calls are recorded.
        """
        ...

    async def statements(self, outcomes: Sequence[Outcome]) -> list[Mapping[str, Statement]]:
        """For each outcome, what its rewrite says about its criteria, as far as known."""
        ...

    def rubric(self, request: str) -> Rubric | None:
        """The criteria of a request, by its id; None if they were not needed yet."""
        ...


class CallListener(Protocol):
    """Receives progress on the calls of the current block."""

    def called(self, key: str, usd: float | None, images: int) -> None:
        """A call has a result."""
        ...

    def settled(self) -> None:
        """The calls so far were entered in the ledger."""
        ...


class _NoListener:
    def called(self, key: str, usd: float | None, images: int) -> None:
        pass

    def settled(self) -> None:
        pass


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator is given by its study.

    Attributes:
        requests: All requests by id.
        journal: Where results are stored.
        ledger: Where spending is entered.
        stop: Checked before each call.
        listener: Receives progress.
    """

    requests: Mapping[str, StudyRequest]
    journal: Journal
    ledger: Ledger
    stop: StopSwitch = field(default_factory=StopSwitch)
    listener: CallListener = field(default_factory=_NoListener)


EvaluatorFactory = Callable[[EvaluationContext], Evaluator]
