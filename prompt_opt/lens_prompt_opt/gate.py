"""Acceptance with a stated error rate: paired blocks, a sequential test, shared alpha."""

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
    """Where challenges are held: evaluation within the budget, and guards."""

    @property
    def places(self) -> tuple[int, ...]:
        """The generators that count, by their place in the study."""
        ...

    async def evaluate_many(
        self, work: Sequence[tuple[Candidate, Sequence[Cell]]]
    ) -> list[list[Outcome]]:
        """Outcomes of candidates on cells; what was evaluated before costs nothing.

        Raises:
            BudgetExhaustedError: If all of it does not fit; nothing was paid then.
        """
        ...

    async def guard(
        self, challenger: Sequence[Outcome], incumbent: Sequence[Outcome]
    ) -> list[GuardFinding]:
        """What the challenger's behaviour runs into."""
        ...


@dataclass(frozen=True, kw_only=True)
class PairedSequentialGate:
    """Accepts a challenger only if its gain over the incumbent exceeds `min_gain`.

    Both are evaluated on the same requests with the same image seeds, block by block, and the
    test is looked at after each block. The probability that a study accepts any challenger whose
    true gain does not exceed `min_gain` is at most `alpha`:

    - Within an epoch, the time between two acceptances, challengers are chosen without knowledge
      of the images drawn for the gate, and all are tested on the epoch's cells; their levels sum
      to a share of `alpha` by `sharing`, so the union bound holds whatever they have in common.
    - After an acceptance the requests are put in a new order and all image seeds are new, so what
      was learnt from the old images cannot favour the next challenger.

    The gain is that on the population that the requests were drawn from, as long as no challenger
    was accepted before; with `BettingTest`, the default, whatever the distribution, with
    `SpendingTest` as far as means over requests are normal. After an acceptance the requests
    are no longer unseen, only their images are; the rate then holds for the gain on the selection
    requests themselves. What carries over to new requests is measured on the test split.

    Attributes:
        alpha: Study-wide error rate.
        min_gain: Gain in mean score that must be exceeded, in [0, 1).
        block_requests: Requests between two looks.
        pictures: Images per request, prompt and generator. One says most per image, as long
            as there are requests left.
        guard_requests: Requests of which both prompts draw one more image before a challenger is
            accepted on one image each, as diversity over seeds shows only in two.
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
        """Refuse numbers that make no test."""
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
    """What both prompts did so far in one challenge."""

    ours: list[Outcome] = field(default_factory=list)
    theirs: list[Outcome] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def add(self, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> list[float]:
        """Take in a block; its differences, one per request."""
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
    """Holds a study's challenges one after the other, and remembers who is incumbent."""

    def __init__(
        self,
        gate: PairedSequentialGate,
        requests: Sequence[StudyRequest],
        *,
        name: str,
        incumbent: Candidate,
    ) -> None:
        """Begin the first epoch.

        Args:
            gate: The rules.
            requests: The selection split.
            name: From which orders and seeds are drawn.
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
        """The level the next challenge would be tested at."""
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
        """Second images of the epoch's first requests; none if the stream has them anyway."""
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
        """Test a challenger; it becomes the incumbent if it is accepted.

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
        """Block after block, until the test has a finding or the money is gone."""
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
        """What the guards find, with second images where the test had one of each request."""
        more: list[list[Outcome]] = [[], []]
        cells = self.guard_cells(arena.places)
        if cells:
            try:
                more = await arena.evaluate_many([(challenger, cells), (self.incumbent, cells)])
            except BudgetExhaustedError:
                return [
                    GuardFinding(
                        guard="diversity",
                        message="there is no budget for the pictures that would show it",
                    )
                ]
        return await arena.guard([*trial.ours, *more[0]], [*trial.theirs, *more[1]])
