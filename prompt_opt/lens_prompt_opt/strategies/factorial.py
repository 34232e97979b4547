"""The default strategy: edits aimed at attributed failures, screened together, then the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from statistics import NormalDist, fmean

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import EditError
from lens_prompt_opt.proposer import ProposalBrief
from lens_prompt_opt.statistics.screening import (
    Effect,
    EffectPrior,
    PairScore,
    edit_effects,
    sign_rows,
)
from lens_prompt_opt.statistics.sequential import Expectation

_MOST_BARREN = 3
"""The search gives up after this many consecutive rounds without a usable edit."""


@dataclass(frozen=True)
class FactorialSearch:
    """Rounds that attribute failures, propose edits, screen them all at once, and keep what helps.

    The search's leading prompt changes without proof, on the posterior mean of each edit alone:
    that is the best guess, and a wrong one costs little. Claims need more: the leader becomes the
    incumbent only through the gate. It challenges the incumbent once no further round fits beside
    the challenge, because a larger lead is easier to prove. If the challenge ends early and budget
    is left, the search continues.

    Attributes:
        edits: Edits per round.
        pairs: Pairs of images per round and generator; the number of images is twice that.
        keep: Edits with a posterior mean gain above this are kept.
        prior: Prior for the effects of edits.
        max_rounds: Maximum number of rounds.
        max_challenges: Maximum number of challenges.
        name: Name for records.
    """

    edits: int = 8
    pairs: int = 12
    keep: float = 0.0
    prior: EffectPrior = field(default_factory=EffectPrior)
    max_rounds: int = 200
    max_challenges: int = 4
    name: str = "factorial"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`."""
        state = _State(desk.seed)
        try:
            first = desk.batch("factorial:start", self.pairs)
            state.seen = [(desk.seed, o) for o in await desk.evaluate(desk.seed, first)]
            for _ in range(self.max_challenges):
                await self._rounds(desk, state)
                if state.leader.id in {desk.incumbent.id, state.challenged}:
                    break
                state.challenged = state.leader.id
                expected = Expectation(gain=state.gain, variance=state.spread)
                decision = await desk.challenge(state.leader, expected=expected)
                if decision.accepted:
                    state.gain, state.variance = 0.0, 0.0
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
        return desk.incumbent

    async def _rounds(self, desk: Desk, state: _State) -> None:
        """Run rounds as long as one fits beside a challenge."""
        barren = 0
        while state.round < self.max_rounds and barren < _MOST_BARREN:
            if not desk.fits(2 * self.pairs * desk.generators + desk.challenge_cells):
                return
            state.round += 1
            barren = 0 if await self._round(desk, state, state.round) else barren + 1

    async def _round(self, desk: Desk, state: _State, number: int) -> bool:
        """Run one round; False if there was nothing to try."""
        edits = await self._propose(desk, state, number)
        if not edits:
            return False
        cells = desk.batch(f"factorial:{number}", self.pairs)
        rows = sign_rows(len(edits))
        desk.rng(f"rows:{number}").shuffle(rows)
        pairs, seen = await _screen(desk, state.leader, edits, cells, rows, number)
        effects = edit_effects(pairs, [edit.hypothesis.kinds for edit in edits], self.prior)
        kept = []
        for edit, effect in zip(edits, effects, strict=True):
            desk.history.hypothesis(_tested(edit, effect))
            if effect.gain > self.keep:
                kept.append((edit, effect))
        state.seen = seen
        state.spread = _score_spread(seen)
        if kept:
            self._advance(desk, state, kept, number)
        return True

    def _advance(
        self, desk: Desk, state: _State, kept: Sequence[tuple[SectionEdit, Effect]], number: int
    ) -> None:
        """Add the edits that helped to the leader."""
        made = desk.candidate(
            state.leader, [edit for edit, _ in kept], origin="composite", round=number
        )
        if made is None:
            return
        state.gain += sum(effect.gain for _, effect in kept)
        state.variance += sum(effect.error**2 for _, effect in kept)
        images, error = 2 * self.pairs * desk.generators, sqrt(state.variance)
        desk.history.screen(made, desk.incumbent, images=images, gain=state.gain, error=error)
        state.leader = made

    async def _propose(self, desk: Desk, state: _State, number: int) -> list[SectionEdit]:
        """Edits of different sections, each of which passes the guards on its own."""
        by_candidate: dict[str, tuple[Candidate, list[Outcome]]] = {}
        for candidate, outcome in state.seen:
            by_candidate.setdefault(candidate.id, (candidate, []))[1].append(outcome)
        report = await desk.failures_of(list(by_candidate.values()))
        brief = ProposalBrief(
            prompt=state.leader.prompt,
            failures=report,
            wanted=2 * self.edits,
            tried=desk.history.tried[-20:],
        )
        chosen: dict[str, SectionEdit] = {}
        for edits in await desk.propose(brief):
            for edit in edits:
                if edit.section in chosen or len(chosen) == self.edits:
                    continue
                if desk.candidate(state.leader, [edit], origin="edit", round=number) is not None:
                    chosen[edit.section] = edit
        return list(chosen.values())


@dataclass
class _State:
    leader: Candidate
    seen: list[tuple[Candidate, Outcome]] = field(default_factory=list)
    gain: float = 0.0
    variance: float = 0.0
    spread: float = 0.1
    round: int = 0
    challenged: str = ""


async def _screen(
    desk: Desk,
    parent: Candidate,
    edits: Sequence[SectionEdit],
    cells: Sequence[Cell],
    rows: Sequence[tuple[int, ...]],
    number: int,
) -> tuple[list[PairScore], list[tuple[Candidate, Outcome]]]:
    """Evaluate each cell under one half of the edits and under the other half."""
    made: dict[tuple[int, ...], Candidate] = {}
    work: dict[tuple[int, ...], list[Cell]] = {}
    plan = [(cell, rows[place % len(rows)]) for place, cell in enumerate(cells)]
    for cell, row in plan:
        for signs in (row, tuple(-sign for sign in row)):
            if signs not in made:
                on = [edit for edit, sign in zip(edits, signs, strict=True) if sign > 0]
                made[signs] = _with(parent, on, number)
            work.setdefault(signs, []).append(cell)
    results = await desk.evaluate_many([(made[signs], cells) for signs, cells in work.items()])
    found = {
        (signs, outcome.cell): outcome
        for signs, outcomes in zip(work, results, strict=True)
        for outcome in outcomes
    }
    pairs, seen = [], []
    for cell, row in plan:
        mirror = tuple(-sign for sign in row)
        first, second = found[row, cell], found[mirror, cell]
        pairs.append(_pair(desk, row, first, second))
        seen += [(made[row], first), (made[mirror], second)]
    return pairs, seen


def _with(parent: Candidate, edits: Sequence[SectionEdit], number: int) -> Candidate:
    """The parent with the edits; the parent itself if they cannot be combined."""
    if not edits:
        return parent
    try:
        return Candidate.edited(parent, edits, origin="screen", round=number)
    except EditError:
        return parent


def _pair(desk: Desk, signs: tuple[int, ...], first: Outcome, second: Outcome) -> PairScore:
    kinds = desk.kinds(first.cell.request)
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, kind in kinds.items():
        a, b = first.met(name), second.met(name)
        if a is not None and b is not None:
            sums[kind] += a - b
            counts[kind] += 1
    everything = Counter(kinds.values())
    return PairScore(
        signs=signs,
        differences={kind: sums[kind] / counts[kind] for kind in counts},
        shares={kind: count / len(kinds) for kind, count in everything.items()},
    )


def _score_spread(seen: Sequence[tuple[Candidate, Outcome]]) -> float:
    """Mean squared score difference within pairs."""
    scores = [outcome.score for _, outcome in seen]
    squares = [
        (a - b) ** 2
        for a, b in zip(scores[::2], scores[1::2], strict=True)
        if a is not None and b is not None
    ]
    return max(fmean(squares), 0.01) if squares else 0.1


def _tested(edit: SectionEdit, effect: Effect) -> SectionEdit:
    """The edit with the screening result of its hypothesis."""
    reach = NormalDist().inv_cdf(0.9) * effect.aimed_error
    return edit.tested(effect.aimed_gain, (effect.aimed_gain - reach, effect.aimed_gain + reach))
