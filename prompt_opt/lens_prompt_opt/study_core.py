"""A study: from a poor system prompt to a better one, with a claim that holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lens_prompt_opt.budget import Budget, BudgetExhaustedError, Ledger
from lens_prompt_opt.card import GainClaim, PromptCard
from lens_prompt_opt.cells import Cell, CellStream
from lens_prompt_opt.comparison import Comparison, surviving_edits
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import BudgetError
from lens_prompt_opt.estimate import StudyEstimate, StudyPlan, UnitPrices, estimate
from lens_prompt_opt.evaluation import EvaluationContext, Evaluator, EvaluatorFactory
from lens_prompt_opt.failures import ByKind, FailureClusterer
from lens_prompt_opt.gate import GateKeeper, PairedSequentialGate
from lens_prompt_opt.guards import GuardRules, OutcomeGuard, PromptGuard
from lens_prompt_opt.history import History
from lens_prompt_opt.journal import Journal, MemoryJournal
from lens_prompt_opt.proposer import Proposer
from lens_prompt_opt.requests import DEFAULT_SHARES, PromptSet, Splits
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.run_directory import CARD_FILE, RESULT_FILE, RunDirectory
from lens_prompt_opt.statistics.intervals import ClusterBootstrap, IntervalMethod
from lens_prompt_opt.statistics.variance import (
    Observation,
    SamplingPlan,
    VarianceLedger,
    variance_ledger,
)
from lens_prompt_opt.strategies.protocol import Strategy
from lens_reasoner.prompts import SystemPrompt


class StudyCore:
    """What every study does, whatever evaluates its cells; see `PromptStudy`."""

    def __init__(
        self,
        *,
        evaluator: EvaluatorFactory,
        prompts: PromptSet,
        proposer: Proposer,
        strategy: Strategy,
        gate: PairedSequentialGate | None = None,
        guards: GuardRules | None = None,
        clusterer: FailureClusterer | None = None,
        interval: IntervalMethod | None = None,
        confidence: float = 0.95,
        test_pictures: int = 2,
        calibration_requests: int = 8,
        shares: Sequence[float] = DEFAULT_SHARES,
        show_pictures: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            evaluator: Makes what turns prompts and cells into scores.
            prompts: The requests.
            proposer: Suggests edits.
            strategy: How to search.
            gate: How a prompt is accepted; None means the default gate.
            guards: Limits for every candidate; None means the default ones.
            clusterer: Sorts failures into modes; None sorts by kind of criterion.
            interval: How the final interval is computed; None means by a studentised bootstrap
                over requests.
            confidence: Confidence of the final interval.
            test_pictures: Pictures per test request and prompt.
            calibration_requests: Requests of the first block, from which the variance ledger
                is made: two rewrites each, two pictures per rewrite, two judgements of one.
            shares: Shares of the search, selection and test split.
            show_pictures: Whether the proposer is shown failed pictures.
        """
        self._evaluator = evaluator
        self._prompts = prompts
        self._proposer = proposer
        self._strategy = strategy
        self._gate = gate or PairedSequentialGate()
        self._guards = guards or GuardRules()
        self._clusterer = clusterer or ByKind()
        self._interval = interval or ClusterBootstrap()
        self._confidence = confidence
        self._test_pictures = test_pictures
        self._calibration_requests = calibration_requests
        self._shares = shares
        self._show_pictures = show_pictures

    async def run(
        self, *, seed: SystemPrompt, budget: Budget, run_dir: str | Path | None, random_seed: int
    ) -> StudyResult:
        """See `PromptStudy.optimize`."""
        splits = self._prompts.split(random_seed, shares=self._shares)
        with self._journal(run_dir, seed, splits, random_seed) as (journal, directory):
            run = _Run(self, seed, splits, budget, journal, random_seed)
            result = await run.finish(Path(run_dir) if run_dir is not None else None)
            if directory is not None:
                directory.write(RESULT_FILE, result.model_dump(mode="json", exclude={"run_dir"}))
                directory.write(CARD_FILE, result.best.model_dump(mode="json"))
            return result

    def estimate(self, budget: Budget, prices: UnitPrices, random_seed: int) -> StudyEstimate:
        """See `PromptStudy.estimate`."""
        splits = self._prompts.split(random_seed, shares=self._shares)
        context = EvaluationContext({}, MemoryJournal(), Ledger(budget))
        generators = self._evaluator(context).generators
        plan = StudyPlan(
            test=2 * len(splits.test) * self._test_pictures * generators,
            challenge=2 * len(splits.selection) * self._gate.pictures * generators,
            calibration=4 * min(self._calibration_requests, len(splits.search)),
        )
        return estimate(budget, prices, plan)

    @contextmanager
    def _journal(
        self, run_dir: str | Path | None, seed: SystemPrompt, splits: Splits, random_seed: int
    ) -> Iterator[tuple[Journal, RunDirectory | None]]:
        if run_dir is None:
            yield MemoryJournal(), None
            return
        directory = RunDirectory(run_dir)
        with directory.open(self._describe(seed, splits, random_seed)) as journal:
            yield journal, directory

    def _describe(self, seed: SystemPrompt, splits: Splits, random_seed: int) -> Mapping[str, Any]:
        requests = {request.id: request for request in self._prompts.requests}
        context = EvaluationContext(requests, MemoryJournal(), Ledger(Budget(calls=1)))
        return {
            "schema": 1,
            "seed_prompt": seed.model_dump(mode="json"),
            "data": {"all": self._prompts.sha256, **splits.hashes()},
            "models": self._models(self._evaluator(context)),
            "strategy": {"name": self._strategy.name, **self._strategy.description},
            "gate": {
                "alpha": self._gate.alpha,
                "min_gain": self._gate.min_gain,
                "block_requests": self._gate.block_requests,
                "pictures": self._gate.pictures,
                "method": repr(self._gate.method),
                "sharing": repr(self._gate.sharing),
            },
            "guards": self._guards.model_dump(mode="json"),
            "test_pictures": self._test_pictures,
            "calibration_requests": self._calibration_requests,
            "random_seed": random_seed,
        }

    def _models(self, evaluator: Evaluator) -> dict[str, str]:
        return {**evaluator.names, "propose": self._proposer.name}


class _Run:
    """One run of a study."""

    def __init__(
        self,
        core: StudyCore,
        seed: SystemPrompt,
        splits: Splits,
        budget: Budget,
        journal: Journal,
        random_seed: int,
    ) -> None:
        self._core = core
        self._splits = splits
        self._random_seed = random_seed
        self._name = f"study:{random_seed}"
        self._ledger = Ledger(budget)
        self._history = History()
        requests = {request.id: request for request in core._prompts.requests}
        context = EvaluationContext(requests, journal, self._ledger)
        self._evaluator = core._evaluator(context)
        self._seed = Candidate.seed(seed)
        self._history.candidate(self._seed)
        self._keeper = GateKeeper(
            core._gate, splits.selection, name=self._name, incumbent=self._seed
        )
        self._desk = Desk(
            name=self._name,
            seed=self._seed,
            splits=splits,
            evaluator=self._evaluator,
            proposer=core._proposer,
            clusterer=core._clusterer,
            keeper=self._keeper,
            prompt_guard=PromptGuard(core._guards, seed, [r.text for r in splits.search]),
            outcome_guard=OutcomeGuard(core._guards, self._evaluator.max_prompt_tokens),
            journal=journal,
            ledger=self._ledger,
            history=self._history,
            show_pictures=core._show_pictures,
        )

    async def finish(self, run_dir: Path | None) -> StudyResult:
        test = self._test_cells()
        self._ledger.reserved_images = 2 * len(test)
        if not self._ledger.fits(1):
            raise BudgetError(
                f"The budget {self._ledger.budget.model_dump(exclude_none=True)} is used up by the "
                f"{2 * len(test)} pictures of the final claim.",
                hint="Raise the budget, or use fewer test requests or pictures.",
            )
        variance = await self._calibrate()
        best = await self._core._strategy.search(self._desk)
        claim: GainClaim | None = None
        hypotheses: tuple[SectionEdit, ...] = ()
        if best.id != self._seed.id:
            claim, hypotheses = await self._claim(best, test)
        history = self._history.record()
        card = PromptCard(
            system_prompt=best.prompt,
            lineage=_lineage(best, self._history.known),
            hypotheses=hypotheses,
            claim=claim,
            decisions=history.decisions,
            data={"all": self._core._prompts.sha256, **self._splits.hashes()},
            models=self._core._models(self._evaluator),
            strategy=self._core._strategy.name,
            seed=self._random_seed,
            cost=self._ledger.table(),
            version=_version(),
        )
        return StudyResult(
            best=card,
            end="improved" if best.id != self._seed.id else "no_improvement",
            variance=variance,
            history=history,
            cost=self._ledger.table(),
            budget=self._ledger.budget,
            run_dir=run_dir,
        )

    def _test_cells(self) -> list[Cell]:
        stream = CellStream(
            self._splits.test,
            f"{self._name}:test",
            pictures=self._core._test_pictures,
            generators=self._evaluator.generators,
        )
        return [cell for block in stream.blocks(len(stream)) for cell in block]

    async def _calibrate(self) -> VarianceLedger | None:
        """The first block: the seed prompt on nested cells of the search split."""
        stream = self._desk.stream("calibration", pictures=4)
        count = self._core._calibration_requests
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
        gate = self._core._gate
        plan = SamplingPlan(requests=len(self._splits.selection), rewrites=gate.pictures)
        return variance_ledger(observations, plan, self._ledger.unit_prices(unit))

    async def _claim(
        self, best: Candidate, cells: Sequence[Cell]
    ) -> tuple[GainClaim | None, tuple[SectionEdit, ...]]:
        """Best against seed on the test split, which nothing has touched so far."""
        try:
            after, before = await self._desk.evaluate_claim(best, self._seed, cells)
        except BudgetExhaustedError:
            self._history.note("nothing was left for the final claim: calls cost more than before")
            return None, ()
        core = self._core
        comparison = Comparison(after, before, self._desk.kinds, core._interval, core._confidence)
        lineage = _lineage(best, self._history.known)
        edits = surviving_edits(best.prompt, lineage)
        return comparison.claim(core._test_pictures), tuple(map(comparison.tested, edits))


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
