"""Random edits, kept if they score higher: the baseline that any method must beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import mean_score
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.failures import FailureReport
from lens_prompt_opt.proposer import ProposalBrief

_NO_FAILURES = FailureReport(modes=(), checked=0, by_fault={})


@dataclass(frozen=True)
class RandomSearch:
    """A beam of the best-scoring prompts; edits are proposed without knowledge of failures.

    With `beam=1` this is hill climbing.

    Attributes:
        beam: Prompts kept after each round.
        children: Edits per kept prompt and round.
        batch: Images per evaluation of a prompt; all prompts share the cells.
        max_rounds: Maximum number of rounds.
        name: Name for records.
    """

    beam: int = 1
    children: int = 1
    batch: int = 48
    max_rounds: int = 200
    name: str = "random"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`."""
        cells = desk.batch("random", self.batch)
        kept: list[tuple[float, Candidate]] = []
        try:
            kept = [(mean_score(await desk.evaluate(desk.seed, cells)) or 0.0, desk.seed)]
            for number in range(1, self.max_rounds + 1):
                for _, parent in list(kept):
                    for made in await self._children(desk, parent, number):
                        score = mean_score(await desk.evaluate(made, cells)) or 0.0
                        if all(made.id != known.id for _, known in kept):
                            kept.append((score, made))
                kept = sorted(kept, key=lambda pair: -pair[0])[: self.beam]
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
        return max(kept, key=lambda pair: pair[0])[1] if kept else desk.seed

    async def _children(self, desk: Desk, parent: Candidate, number: int) -> list[Candidate]:
        brief = ProposalBrief(
            prompt=parent.prompt,
            failures=_NO_FAILURES,
            wanted=self.children,
        )
        proposals = await desk.propose(brief)
        made = [desk.candidate(parent, e, origin="random", round=number) for e in proposals]
        return [candidate for candidate in made if candidate is not None]
