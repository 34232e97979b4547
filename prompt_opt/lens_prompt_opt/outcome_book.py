"""Every outcome of a study, paid for once and within the budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from lens_prompt_opt.budget import BudgetExhaustedError, Ledger
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.errors import StudyInterruptedError
from lens_prompt_opt.evaluation import Evaluator
from lens_prompt_opt.journal import Journal
from lens_reasoner.errors import ImageServiceError
from lens_reasoner.revision import Statement

Work = Sequence[tuple[Candidate, Sequence[Cell]]]
"""Candidates, each with the cells to evaluate it on."""

_ENOUGH_TO_JUDGE = 8


class OutcomeBook:
    """Evaluates cells with unknown outcomes, block by block."""

    def __init__(self, evaluator: Evaluator, journal: Journal, ledger: Ledger) -> None:
        self._evaluator = evaluator
        self._journal = journal
        self._ledger = ledger
        self._outcomes: dict[tuple[str, Cell], Outcome] = {}
        self._statements: dict[tuple[str, Cell], Mapping[str, Statement]] = {}
        self._blocks = 0

    def unknown(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that were not evaluated yet."""
        return [cell for cell in cells if (candidate.id, cell) not in self._outcomes]

    def known(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Outcome]:
        """The outcomes of the cells that were evaluated."""
        pairs = ((candidate.id, cell) for cell in cells)
        return [self._outcomes[pair] for pair in pairs if pair in self._outcomes]

    async def evaluate(self, work: Work, *, reserve: bool = True) -> list[list[Outcome]]:
        """Evaluate each candidate on its cells, as one block.

        Args:
            work: What to evaluate.
            reserve: Whether to leave the reserve for the final claim untouched.

        Raises:
            BudgetExhaustedError: The new cells do not fit the budget; nothing was paid.
            StudyInterruptedError: A service is down, or most cells of the block got no score.
        """
        known = self._outcomes
        new = {
            (candidate.id, cell): (candidate.prompt, cell)
            for candidate, cells in work
            for cell in cells
            if (candidate.id, cell) not in known
        }
        if new:
            if not self._ledger.fits(len(new), reserve=reserve):
                raise BudgetExhaustedError
            started = time.perf_counter()
            outcomes = await self._evaluator.evaluate(list(new.values()))
            self._count_time(time.perf_counter() - started)
            _refuse_if_unjudged(outcomes)
            known.update(zip(new, outcomes, strict=True))
        return [[known[candidate.id, cell] for cell in cells] for candidate, cells in work]

    def _count_time(self, seconds: float) -> None:
        """Enter a block's time; when resuming, the time it took originally."""
        self._blocks += 1
        key = f"block:{self._blocks}"
        record = self._journal.get(key)
        if record is None:
            record = {"seconds": seconds}
            self._journal.put(key, record)
        self._ledger.wall_seconds += record["seconds"]

    async def statements(
        self, candidate: Candidate, outcomes: Sequence[Outcome]
    ) -> list[Mapping[str, Statement]]:
        """What the rewrites of `outcomes` say about their criteria, as far as known."""
        new = [o for o in outcomes if (candidate.id, o.cell) not in self._statements]
        started = time.perf_counter()
        found = await self._evaluator.statements(new) if new else []
        if new:
            self._count_time(time.perf_counter() - started)
        for outcome, said in zip(new, found, strict=True):
            self._statements[candidate.id, outcome.cell] = said
        return [self._statements[candidate.id, outcome.cell] for outcome in outcomes]


def _refuse_if_unjudged(outcomes: Sequence[Outcome]) -> None:
    if len(outcomes) < _ENOUGH_TO_JUDGE:
        return
    if all(outcome.failure.startswith(ImageServiceError.__name__) for outcome in outcomes):
        raise StudyInterruptedError(
            f"The image server turned away all {len(outcomes)} prompts of a block; the first "
            f"because of: {outcomes[0].failure}.",
            hint="Try the generator with a single request before a study.",
        )
    missing = [outcome for outcome in outcomes if outcome.score is None]
    if 2 * len(missing) > len(outcomes):
        raise StudyInterruptedError(
            f"{len(missing)} of {len(outcomes)} images got no score; the first because of: "
            f"{missing[0].failure or 'no criterion could be answered'}.",
            hint="Check the judge and the criteria; scores from so few would mislead.",
        )
