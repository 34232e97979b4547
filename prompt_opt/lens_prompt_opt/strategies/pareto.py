"""Reflective search over per-request fronts, with crossover of sections."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from statistics import fmean, variance

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell, Outcome, mean_score, paired_differences
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, crossover
from lens_prompt_opt.proposer import ProposalBrief
from lens_prompt_opt.statistics.sequential import Expectation


@dataclass(frozen=True)
class ParetoSearch:
    """Keeps a pool of prompts that are best on some request, and mutates and crosses them.

    Parents are sampled by the number of requests they are best on. A child is an edit of one
    section, aimed at the parent's attributed failures, or a crossover with another prompt that
    improved other sections. It is compared with its parent on a few cells and, if it looks better,
    on all cells of the front. At the end, the pool's best by shrunk mean challenges the incumbent.

    Attributes:
        front: Images on which every prompt of the pool is evaluated; one per request first.
        screen: How many of these a child is compared on before the rest is paid for.
        crossovers: Probability that a round tries a crossover instead of an edit.
        prior: Prior standard deviation of a child's gain.
        max_rounds: Maximum number of rounds.
        name: Name for records.
    """

    front: int = 64
    screen: int = 20
    crossovers: float = 0.3
    prior: float = 0.04
    max_rounds: int = 200
    name: str = "pareto"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`."""
        cells = desk.batch("pareto", self.front)
        pool = _Pool(desk, cells, self.prior)
        rng = desk.rng("pareto")
        try:
            await desk.evaluate(desk.seed, cells)
            pool.add(desk.seed)
            for number in range(1, self.max_rounds + 1):
                if not desk.fits(len(cells) + desk.challenge_cells):
                    break
                for child in await self._children(desk, pool, rng, number):
                    await self._try(desk, pool, child)
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
        leader, gain = pool.best()
        if leader.id != desk.incumbent.id:
            await desk.challenge(leader, expected=Expectation(gain=gain, variance=0.08))
        return desk.incumbent

    async def _children(
        self, desk: Desk, pool: _Pool, rng: random.Random, number: int
    ) -> list[Candidate]:
        parent = pool.draw(rng)
        if len(pool.members) > 2 and rng.random() < self.crossovers:
            other = pool.draw(rng)
            edits = crossover(parent, other, desk.seed) if other.id != parent.id else None
            if edits:
                made = desk.candidate(
                    parent, edits, origin="crossover", round=number, other_parents=(other,)
                )
                return [made] if made and made.id not in pool.members else []
        report = await desk.failures(parent, desk.outcomes(parent, pool.cells))
        brief = ProposalBrief(
            prompt=parent.prompt,
            failures=report,
            tried=desk.history.tried[-20:],
        )
        made_all = [
            desk.candidate(parent, edits, origin="edit", round=number)
            for edits in await desk.propose(brief)
        ]
        return [made for made in made_all if made is not None and made.id not in pool.members]

    async def _try(self, desk: Desk, pool: _Pool, child: Candidate) -> None:
        parent = pool.members[child.parents[0]]
        screen = pool.cells[: self.screen]
        gain, error = pool.compare(await desk.evaluate(child, screen), parent, screen)
        if gain > 0:
            gain, error = pool.compare(await desk.evaluate(child, pool.cells), parent, pool.cells)
        images = len(desk.outcomes(child, pool.cells))
        desk.history.screen(child, parent, images=images, gain=gain, error=error)
        if images == len(pool.cells) and gain > 0:
            pool.add(child)


@dataclass
class _Pool:
    desk: Desk
    cells: list[Cell]
    prior: float
    members: dict[str, Candidate] = field(default_factory=dict)

    def add(self, candidate: Candidate) -> None:
        self.members[candidate.id] = candidate

    def draw(self, rng: random.Random) -> Candidate:
        """Sample a member, weighted by the number of requests on which no other is better."""
        wins = dict.fromkeys(self.members, 0.0)
        scores = {name: self._by_request(member) for name, member in self.members.items()}
        for request in dict.fromkeys(cell.request for cell in self.cells):
            best = max(by_request.get(request, 0.0) for by_request in scores.values())
            winners = [n for n, by_request in scores.items() if by_request.get(request) == best]
            for name in winners:
                wins[name] += 1 / len(winners)
        # There are many ties; the better mean breaks them.
        means = {name: mean_score(self._outcomes(m)) or 0.0 for name, m in self.members.items()}
        top = max(means.values())
        weights = [wins[name] * 0.5 ** ((top - means[name]) / self.prior) for name in wins]
        [chosen] = rng.choices(list(wins), weights=[weight + 1e-9 for weight in weights])
        return self.members[chosen]

    def best(self) -> tuple[Candidate, float]:
        """The member with the largest shrunk gain over the seed, and that gain."""
        seed = self.desk.seed
        gains = {
            name: self.compare(self._outcomes(member), seed, self.cells)[0]
            for name, member in self.members.items()
        }
        chosen = max(gains, key=lambda name: gains[name], default=seed.id)
        return self.members.get(chosen, seed), max(gains.get(chosen, 0.0), 0.0)

    def compare(
        self, outcomes: Sequence[Outcome], parent: Candidate, cells: Sequence[Cell]
    ) -> tuple[float, float]:
        """Posterior mean and standard deviation of the gain over `parent` on `cells`."""
        gains = list(paired_differences(outcomes, self.desk.outcomes(parent, cells)).values())
        if len(gains) < 2:
            return 0.0, self.prior
        noise = max(variance(gains), 1e-3) / len(gains)
        share = self.prior**2 / (self.prior**2 + noise)
        return share * fmean(gains), sqrt(share * noise)

    def _outcomes(self, member: Candidate) -> list[Outcome]:
        return self.desk.outcomes(member, self.cells)

    def _by_request(self, member: Candidate) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for outcome in self._outcomes(member):
            if outcome.score is not None:
                found.setdefault(outcome.cell.request, []).append(outcome.score)
        return {request: fmean(scores) for request, scores in found.items()}
