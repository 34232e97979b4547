"""One run of a study, from the first block to the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lens_prompt_opt.budget import Budget, BudgetExhaustedError, Ledger
from lens_prompt_opt.calibration import calibrate
from lens_prompt_opt.card import PromptCard
from lens_prompt_opt.cells import Cell, CellStream, Outcome
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
from lens_prompt_opt.progress import Monitor, ProgressCallback
from lens_prompt_opt.requests import Splits
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.statistics.variance import SamplingPlan, VarianceLedger
from lens_prompt_opt.stopping import StopSwitch
from lens_prompt_opt.study_design import StudyDesign
from lens_prompt_opt.transfer import (
    SEED_ROW,
    SHARED_ROW,
    GeneratorMatrix,
    GeneratorPrompt,
    generator_matrix,
)
from lens_reasoner.prompts import SystemPrompt

_MANY = 10**6
"""More images than any study generates."""


class StudyRun:
    """One run of a study: the shared search, any searches per generator, and the claim."""

    def __init__(
        self,
        design: StudyDesign,
        seed: SystemPrompt,
        splits: Splits,
        budget: Budget,
        journal: Journal,
        random_seed: int,
        *,
        stop: StopSwitch | None = None,
        told: ProgressCallback | None = None,
    ) -> None:
        self._design = design
        self._splits = splits
        self._journal = journal
        self._random_seed = random_seed
        self._name = f"study:{random_seed}"
        self._ledger = Ledger(budget)
        self._monitor = Monitor(self._ledger, told)
        self._stop = stop or StopSwitch()
        requests = {request.id: request for request in design.prompts.requests}
        context = EvaluationContext(requests, journal, self._ledger, self._stop, self._monitor)
        self._evaluator = design.evaluator(context)
        self._generators = self._evaluator.generators
        self._seed = Candidate.seed(seed)
        self._book = OutcomeBook(self._evaluator, journal, self._ledger)
        self._desk = self._make_desk(self._name, self._seed, tuple(range(len(self._generators))))

    def _make_desk(self, name: str, start: Candidate, places: tuple[int, ...]) -> Desk:
        """A desk for a search from `start` that counts the generators at `places`."""
        design = self._design
        searches = 1 + len(self._generators) if len(self._generators) > 1 else 1
        gate = replace(design.gate, alpha=design.gate.alpha / searches)
        history = History(self._monitor.report)
        history.candidate(start)
        return Desk(
            name=name,
            seed=start,
            splits=self._splits,
            evaluator=self._evaluator,
            proposer=design.proposer,
            clusterer=design.clusterer,
            keeper=GateKeeper(gate, self._splits.selection, name=name, incumbent=start),
            prompt_guard=PromptGuard(
                design.guards, self._seed.prompt, [r.text for r in self._splits.search]
            ),
            outcome_guard=OutcomeGuard(design.guards, self._evaluator.max_prompt_tokens),
            book=self._book,
            journal=self._journal,
            ledger=self._ledger,
            history=history,
            stop=self._stop,
            places=places,
            show_pictures=design.show_pictures,
        )

    async def finish(self, run_dir: Path | None) -> StudyResult:
        """Run from beginning to end; recorded calls are not repeated.

        Raises:
            BudgetError: The budget does not even cover the final claim.
        """
        test = self._test_cells()
        several = len(self._generators) > 1
        prompts = 2 + len(self._generators) if several else 2
        self._ledger.reserved_images = prompts * len(test)
        self._refuse_too_little()
        self._monitor.enter("calibrating", self._desk.history)
        plan = SamplingPlan(
            requests=len(self._splits.selection), rewrites=self._design.gate.pictures
        )
        variance = await calibrate(self._desk, self._design.calibration_requests, plan)
        own = self._images_per_generator() if several else 0
        self._ledger.reserved_images += own * len(self._generators)
        self._monitor.enter("searching", self._desk.history)
        best = await self._search(self._desk)
        found: list[tuple[Candidate, Desk]] = []
        if several and self._design.own_share > 0:
            for place, name in enumerate(self._generators):
                self._ledger.reserved_images -= own
                found.append(await self._specialise(best, place, name))
        result = await self._claimed(best, found, test, variance, run_dir)
        self._monitor.enter("finished", self._desk.history)
        return result

    async def _claimed(
        self,
        best: Candidate,
        found: Sequence[tuple[Candidate, Desk]],
        test: Sequence[Cell],
        variance: VarianceLedger | None,
        run_dir: Path | None,
    ) -> StudyResult:
        """The result, with its claim from the test split."""
        self._monitor.enter("claiming", self._desk.history)
        comparison = await self._compare(best, test)
        guess = self._best_guess() if best.id == self._seed.id else None
        guessed = await self._compare(guess, test) if guess is not None else None
        matrix = await self._matrix(best, [own_best for own_best, _ in found], test)
        texts = {request.id: request.text for request in self._splits.test}
        return StudyResult(
            best=self._card(best, comparison, self._desk),
            end="improved" if best.id != self._seed.id else "no_improvement",
            unproven=self._card(guess, guessed, self._desk) if guess and guessed else None,
            variance=variance,
            history=self._desk.history.record(),
            pictures=comparison.pictures(texts, self._evaluator.rubric) if comparison else (),
            generators=self._generators,
            per_generator=tuple(
                self._generator_prompt(place, candidate, desk, test)
                for place, (candidate, desk) in enumerate(found)
            ),
            matrix=matrix,
            cost=self._ledger.table(),
            budget=self._ledger.budget,
            run_dir=run_dir,
        )

    def _refuse_too_little(self) -> None:
        if not self._ledger.fits(1):
            raise BudgetError(
                f"The budget {self._ledger.budget.model_dump(exclude_none=True)} is used up by the "
                f"{self._ledger.reserved_images} images of the final claim.",
                hint="Raise the budget, or use fewer test requests or test_pictures.",
            )

    def _images_per_generator(self) -> int:
        """Images reserved for each generator's own search."""
        left = self._ledger.cells_left(most=_MANY)
        return int(left * self._design.own_share / len(self._generators))

    async def _search(self, desk: Desk) -> Candidate:
        """Run the strategy; if it does not handle the end of the budget, keep the incumbent."""
        try:
            return await self._design.strategy.search(desk)
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
            return desk.incumbent

    async def _specialise(
        self, start: Candidate, place: int, generator: str
    ) -> tuple[Candidate, Desk]:
        """Continue the search from the shared prompt for one generator."""
        desk = self._make_desk(f"{self._name}:generator:{place}", start, (place,))
        self._monitor.enter("specialising", desk.history, generator=generator)
        return await self._search(desk), desk

    def _best_guess(self) -> Candidate | None:
        """The last challenger with a positive gain that was not accepted."""
        history = self._desk.history
        for decision in reversed(history.decisions):
            if decision.verdict != "guarded" and (decision.gain or 0.0) > 0:
                return next(c for c in history.known if c.id == decision.challenger)
        return None

    def _generator_prompt(
        self, place: int, best: Candidate, desk: Desk, test: Sequence[Cell]
    ) -> GeneratorPrompt:
        cells = [cell for cell in test if cell.generator == place]
        after, before = self._book.known(best, cells), self._book.known(self._seed, cells)
        comparison = None
        if best.id != self._seed.id and len(after) == len(before) == len(cells):
            comparison = self._comparison(after, before)
        return GeneratorPrompt(
            generator=self._generators[place],
            card=self._card(best, comparison, desk),
            history=desk.history.record(),
        )

    def _card(self, best: Candidate, comparison: Comparison | None, desk: Desk) -> PromptCard:
        design = self._design
        lineage = _lineage(best, [*self._desk.history.known, *desk.history.known])
        edits = surviving_edits(best.prompt, lineage)
        earlier = self._desk.history.decisions if desk is not self._desk else ()
        return PromptCard(
            system_prompt=best.prompt,
            lineage=lineage,
            hypotheses=tuple(map(comparison.tested, edits)) if comparison else (),
            claim=comparison.claim(design.test_pictures) if comparison else None,
            decisions=(*earlier, *desk.history.decisions),
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
            generators=range(len(self._generators)),
        )
        return [cell for block in stream.blocks(len(stream)) for cell in block]

    async def _compare(self, best: Candidate, cells: Sequence[Cell]) -> Comparison | None:
        """Compare best and seed on the test split, which nothing has used so far."""
        if best.id == self._seed.id:
            return None
        try:
            work = [(best, cells), (self._seed, cells)]
            after, before = await self._book.evaluate(work, reserve=False)
        except BudgetExhaustedError:
            self._desk.history.note(
                "nothing was left for the final claim: calls cost more than before"
            )
            return None
        return self._comparison(after, before)

    def _comparison(self, after: Sequence[Outcome], before: Sequence[Outcome]) -> Comparison:
        design = self._design
        return Comparison(after, before, self._desk.kinds, design.interval, design.confidence)

    async def _matrix(
        self, best: Candidate, own: Sequence[Candidate], cells: Sequence[Cell]
    ) -> GeneratorMatrix | None:
        """All prompts on all generators; None with one generator or without a new prompt."""
        if not own or all(candidate.id == self._seed.id for candidate in own):
            return None
        named = dict(zip(self._generators, own, strict=True))
        rows = {SEED_ROW: self._seed, SHARED_ROW: best, **named}
        try:
            outcomes = await self._book.evaluate(
                [(candidate, cells) for candidate in rows.values()], reserve=False
            )
        except BudgetExhaustedError:
            self._desk.history.note("nothing was left to compare prompts across generators")
            return None
        design = self._design
        return generator_matrix(
            dict(zip(rows, outcomes, strict=True)),
            self._generators,
            design.interval,
            design.confidence,
        )


def _lineage(best: Candidate, known: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """`best` and its ancestors, oldest first."""
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
