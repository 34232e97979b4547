"""Acceptance with a guaranteed error rate: paired blocks, a sequential test, shared alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Protocol

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell, CellStream, Outcome, paired_differences
from lens_prompt_opt.decisions import Decision, Look, Verdict
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.errors import require
from lens_prompt_opt.guards import GuardFinding
from lens_prompt_opt.requests import StudyRequest
from lens_prompt_opt.statistics.betting import betting_interval
from lens_prompt_opt.statistics.multiplicity import ErrorSharing, OnlineFallback, Tried
from lens_prompt_opt.statistics.sequential import (
    HIGHEST,
    LOWEST,
    BettingTest,
    Expectation,
    SequentialTest,
    TestMethod,
)


class Arena(Protocol):
    """What the gate needs for challenges: evaluation within the budget, and guards."""

    @property
    def places(self) -> tuple[int, ...]:
        """Indexes in the study of the generators that count."""
        ...

    async def evaluate_many(
        self, work: Sequence[tuple[Candidate, Sequence[Cell]]]
    ) -> list[list[Outcome]]:
        """Evaluate candidates on cells; known outcomes cost nothing.

        Raises:
            BudgetExhaustedError: Not all of it fits the budget; nothing was paid.
        """
        ...

    async def guard(
        self, challenger: Sequence[Outcome], incumbent: Sequence[Outcome]
    ) -> list[GuardFinding]:
        """Guard findings against the challenger's behaviour."""
        ...


@dataclass(frozen=True, kw_only=True)
class PairedSequentialGate:
    """Accepts a challenger only if its gain over the incumbent exceeds `min_gain`.

    Both are evaluated on the same requests with the same image seeds, block by block, with a test
    after each block. The probability that a study accepts any challenger whose true gain does not
    exceed `min_gain` is at most `alpha`:

    - Within an epoch, the time between two acceptances, challengers are chosen without knowledge of
      the gate's images, and all are tested on the epoch's cells. Their levels add up to a share of
      `alpha` (see `sharing`), so the union bound holds even though they share cells.
    - After an acceptance, the requests are reordered and all image seeds are new, so nothing learnt
      from the old images can favour the next challenger.

    Until the first acceptance, the gain is that on the population the requests were sampled from:
    with `BettingTest`, the default, for any distribution; with `SpendingTest` as far as means over
    requests are normal. After an acceptance, the requests are no longer unseen, only the images
    are; the rate then applies to the gain on the selection requests themselves. The test split
    measures what carries over to new requests.

    Attributes:
        alpha: Study-wide error rate.
        min_gain: Gain in mean score that must be exceeded, in [0, 1).
        block_requests: Requests per block.
        pictures: Images per request, prompt and generator. One gives the most information per
            image, as long as there are requests left.
        guard_requests: With one image per request, the number of requests for which both prompts
            generate a second image before an acceptance, because diversity over seeds only shows in
            two.
        method: The sequential test.
        sharing: How alpha is shared among challengers.
        confidence: Confidence of the interval reported with a decision.
    """

    alpha: float = 0.05
    min_gain: float = 0.0
    block_requests: int = 8
    pictures: int = 1
    guard_requests: int = 8
    method: TestMethod = field(default_factory=BettingTest)
    sharing: ErrorSharing = field(default_factory=OnlineFallback)
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, fine, rule in (
            ("alpha", 0 < self.alpha < 1, "between 0 and 1"),
            ("min_gain", 0 <= self.min_gain < 1, "from 0 to below 1"),
            ("block_requests", self.block_requests >= 1, "at least 1"),
            ("pictures", self.pictures >= 1, "at least 1"),
            ("guard_requests", self.guard_requests >= 0, "at least 0"),
            ("confidence", 0 < self.confidence < 1, "between 0 and 1"),
        ):
            require(name, getattr(self, name), fine, rule)


@dataclass
class _Trial:
    """The outcomes of both prompts so far in one challenge."""

    ours: list[Outcome] = field(default_factory=list)
    theirs: list[Outcome] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def add(self, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> list[float]:
        """Add a block and return its differences, one per request."""
        self.ours.extend(ours)
        self.theirs.extend(theirs)
        new = list(paired_differences(ours, theirs).values())
        self.differences += new
        return new

    @property
    def mean(self) -> float:
        """Mean difference so far; 0 before the first."""
        return fsum(self.differences) / len(self.differences) if self.differences else 0.0


class GateKeeper:
    """Runs a study's challenges one after another, and keeps track of the incumbent."""

    def __init__(
        self,
        gate: PairedSequentialGate,
        requests: Sequence[StudyRequest],
        *,
        name: str,
        incumbent: Candidate,
    ) -> None:
        """Start the first epoch.

        Args:
            gate: The rules.
            requests: The selection split.
            name: Determines the order of requests and the seeds.
            incumbent: The seed prompt.
        """
        self.gate = gate
        self.incumbent = incumbent
        self.decisions: list[Decision] = []
        self._requests = requests
        self._name = name
        self._epoch = 0

    @property
    def next_level(self) -> float:
        """The level at which the next challenge will be tested."""
        tried = [Tried(decision.level, decision.accepted) for decision in self.decisions]
        return self.gate.sharing.next_level(self.gate.alpha, tried)

    def stream(self, generators: Sequence[int]) -> CellStream:
        """The cells of this epoch's challenges."""
        return CellStream(
            self._requests,
            f"{self._name}:selection:{self._epoch}",
            pictures=self.gate.pictures,
            generators=generators,
        )

    def guard_cells(self, generators: Sequence[int]) -> list[Cell]:
        """Second images for the epoch's first requests; none if the stream has several images."""
        if self.gate.pictures > 1:
            return []
        again = CellStream(
            self._requests,
            f"{self._name}:guard:{self._epoch}",
            pictures=1,
            generators=generators,
        )
        first = next(self.stream(generators).blocks(max(self.gate.guard_requests, 1)))
        names = list(dict.fromkeys(cell.request for cell in first))[: self.gate.guard_requests]
        return [cell for name in names for cell in again.of_request(name)]

    async def challenge(
        self, challenger: Candidate, arena: Arena, *, expected: Expectation | None = None
    ) -> Decision:
        """Test a challenger; if accepted, it becomes the incumbent.

        `expected` must come from data of the search split.
        """
        stream = self.stream(arena.places)
        level = self.next_level
        test = self.gate.method.start(
            level=level, min_gain=self.gate.min_gain, horizon=len(stream), expected=expected
        )
        trial = _Trial()
        verdict = await self._play(trial, challenger, arena, stream, test)
        guards = await self._guarded(challenger, arena, trial) if verdict == "better" else []
        decision = Decision(
            challenger=challenger.id,
            incumbent=self.incumbent.id,
            number=len(self.decisions) + 1,
            level=level,
            verdict="guarded" if guards else verdict,
            gain=trial.mean if trial.differences else None,
            interval=betting_interval(
                trial.differences, confidence=self.gate.confidence, lowest=LOWEST, highest=HIGHEST
            ),
            requests=len(trial.differences),
            images=len(trial.ours),
            looks=tuple(trial.looks),
            guards=tuple(guards),
        )
        self.decisions.append(decision)
        if decision.accepted:
            self.incumbent = challenger
            self._epoch += 1
        return decision

    async def _play(
        self,
        trial: _Trial,
        challenger: Candidate,
        arena: Arena,
        stream: CellStream,
        test: SequentialTest,
    ) -> Verdict:
        """Evaluate block by block, until the test has a finding or the budget is exhausted."""
        for block in stream.blocks(self.gate.block_requests):
            try:
                ours, theirs = await arena.evaluate_many(
                    [(challenger, block), (self.incumbent, block)]
                )
            except BudgetExhaustedError:
                return "out_of_budget"
            new = trial.add(ours, theirs)
            test.update(new)
            trial.looks.append(
                Look(requests=len(trial.differences), mean=trial.mean, evidence=test.evidence)
            )
            if test.finding != "undecided":
                return test.finding
        return "no_difference"

    async def _guarded(
        self,
        challenger: Candidate,
        arena: Arena,
        trial: _Trial,
    ) -> list[GuardFinding]:
        """Guard findings, with second images if the test had only one per request."""
        more: list[list[Outcome]] = [[], []]
        cells = self.guard_cells(arena.places)
        if cells:
            try:
                more = await arena.evaluate_many([(challenger, cells), (self.incumbent, cells)])
            except BudgetExhaustedError:
                return [
                    GuardFinding(
                        guard="diversity",
                        message="there is no budget for the images that would show it",
                    )
                ]
        return await arena.guard([*trial.ours, *more[0]], [*trial.theirs, *more[1]])
