"""One run of a study, from the first block to the claim."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from lens_prompt_opt.budget import Budget, BudgetExhaustedError, Ledger
from lens_prompt_opt.card import PromptCard
from lens_prompt_opt.cells import Cell, CellStream
from lens_prompt_opt.comparison import Comparison, surviving_edits
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.errors import BudgetError
from lens_prompt_opt.evaluation import EvaluationContext
from lens_prompt_opt.gate import GateKeeper
from lens_prompt_opt.guards import OutcomeGuard, PromptGuard
from lens_prompt_opt.history import History
from lens_prompt_opt.journal import Journal
from lens_prompt_opt.outcome_book import OutcomeBook
from lens_prompt_opt.requests import Splits
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.statistics.variance import (
    Observation,
    SamplingPlan,
    VarianceLedger,
    variance_ledger,
)
from lens_prompt_opt.study_design import StudyDesign
from lens_reasoner.prompts import SystemPrompt


class StudyRun:
    """One run of a study."""

    def __init__(
        self,
        design: StudyDesign,
        seed: SystemPrompt,
        splits: Splits,
        budget: Budget,
        journal: Journal,
        random_seed: int,
    ) -> None:
        self._design = design
        self._splits = splits
        self._random_seed = random_seed
        self._name = f"study:{random_seed}"
        self._ledger = Ledger(budget)
        self._history = History()
        requests = {request.id: request for request in design.prompts.requests}
        context = EvaluationContext(requests, journal, self._ledger)
        self._evaluator = design.evaluator(context)
        self._seed = Candidate.seed(seed)
        self._history.candidate(self._seed)
        self._keeper = GateKeeper(
            design.gate, splits.selection, name=self._name, incumbent=self._seed
        )
        self._book = OutcomeBook(self._evaluator, journal, self._ledger)
        self._desk = Desk(
            name=self._name,
            seed=self._seed,
            splits=splits,
            evaluator=self._evaluator,
            proposer=design.proposer,
            clusterer=design.clusterer,
            keeper=self._keeper,
            prompt_guard=PromptGuard(design.guards, seed, [r.text for r in splits.search]),
            outcome_guard=OutcomeGuard(design.guards, self._evaluator.max_prompt_tokens),
            book=self._book,
            journal=journal,
            ledger=self._ledger,
            history=self._history,
            show_pictures=design.show_pictures,
        )

    async def finish(self, run_dir: Path | None) -> StudyResult:
        """Go from beginning to end, over what the journal holds already.

        Raises:
            BudgetError: If the budget does not even pay for the final claim.
        """
        test = self._test_cells()
        self._ledger.reserved_images = 2 * len(test)
        if not self._ledger.fits(1):
            raise BudgetError(
                f"The budget {self._ledger.budget.model_dump(exclude_none=True)} is used up by the "
                f"{2 * len(test)} pictures of the final claim.",
                hint="Raise the budget, or use fewer test requests or pictures.",
            )
        variance = await self._calibrate()
        best = await self._design.strategy.search(self._desk)
        comparison = None
        if best.id != self._seed.id:
            comparison = await self._compare(best, test)
        texts = {request.id: request.text for request in self._splits.test}
        return StudyResult(
            best=self._card(best, comparison),
            end="improved" if best.id != self._seed.id else "no_improvement",
            variance=variance,
            history=self._history.record(),
            pictures=comparison.pictures(texts, self._evaluator.rubric) if comparison else (),
            cost=self._ledger.table(),
            budget=self._ledger.budget,
            run_dir=run_dir,
        )

    def _card(self, best: Candidate, comparison: Comparison | None) -> PromptCard:
        design, lineage = self._design, _lineage(best, self._history.known)
        edits = surviving_edits(best.prompt, lineage)
        return PromptCard(
            system_prompt=best.prompt,
            lineage=lineage,
            hypotheses=tuple(map(comparison.tested, edits)) if comparison else (),
            claim=comparison.claim(design.test_pictures) if comparison else None,
            decisions=self._history.record().decisions,
            data=design.data_hashes(self._splits),
            models=design.models(self._evaluator),
            strategy=design.strategy.name,
            seed=self._random_seed,
            cost=self._ledger.table(),
            version=_version(),
        )

    def _test_cells(self) -> list[Cell]:
        stream = CellStream(
            self._splits.test,
            f"{self._name}:test",
            pictures=self._design.test_pictures,
            generators=self._evaluator.generators,
        )
        return [cell for block in stream.blocks(len(stream)) for cell in block]

    async def _calibrate(self) -> VarianceLedger | None:
        """The first block: the seed prompt on nested cells of the search split."""
        stream = self._desk.stream("calibration", pictures=4)
        count = self._design.calibration_requests
        if count < 2:
            return None
        cells = _nested(next(stream.blocks(count)))
        try:
            outcomes = await self._desk.evaluate(self._seed, cells)
        except BudgetExhaustedError:
            return None
        observations = [
            Observation(o.cell.request, o.cell.draw, o.cell.seed, o.cell.vote, o.score)
            for o in outcomes
            if o.score is not None
        ]
        unit: Literal["usd", "seconds"] = "usd" if self._ledger.usd > 0 else "seconds"
        gate = self._design.gate
        plan = SamplingPlan(requests=len(self._splits.selection), rewrites=gate.pictures)
        return variance_ledger(observations, plan, self._ledger.unit_prices(unit))

    async def _compare(self, best: Candidate, cells: Sequence[Cell]) -> Comparison | None:
        """Best against seed on the test split, which nothing has touched so far."""
        try:
            work = [(best, cells), (self._seed, cells)]
            after, before = await self._book.evaluate(work, reserve=False)
        except BudgetExhaustedError:
            self._history.note("nothing was left for the final claim: calls cost more than before")
            return None
        design = self._design
        return Comparison(after, before, self._desk.kinds, design.interval, design.confidence)


def _nested(cells: Sequence[Cell]) -> list[Cell]:
    """Two rewrites of each request, two pictures of each, two judgements of the first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.generator == 0:
            found.setdefault(cell.request, []).append(cell)
    nested = []
    for group in found.values():
        for place, cell in enumerate(group):
            # Cells 0 and 1 share the rewrite of cell 0, cells 2 and 3 that of cell 2.
            nested.append(cell._replace(draw=group[place - place % 2].draw))
        nested.append(nested[-len(group)]._replace(vote=1))
    return nested


def _lineage(best: Candidate, known: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """`best` and everything it descends from, ancestors first."""
    by_id = {candidate.id: candidate for candidate in known}
    found: dict[str, Candidate] = {}

    def visit(candidate: Candidate) -> None:
        if candidate.id in found:
            return
        for parent in candidate.parents:
            if parent in by_id:
                visit(by_id[parent])
        found[candidate.id] = candidate

    visit(best)
    return tuple(found.values())


def _version() -> str:
    try:
        return version("lens-sdk")
    except PackageNotFoundError:
        return "unknown"
