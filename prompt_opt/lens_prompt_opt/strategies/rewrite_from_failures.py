"""The published method: rewrite the prompt from its failures, keep what scores higher."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import mean_score
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.proposer import ProposalBrief


@dataclass(frozen=True)
class RewriteFromFailures:
    """Gives the prompt and a summary of its failures to the proposer, which rewrites the prompt.

    As published ("training-free system prompt search", arXiv 2605.21573): a rewrite replaces the
    prompt if its mean score on a batch is higher than the prompt's. Every batch has new seeds,
    there is no correction for noise or for the number of rewrites, and the gate is not used. It
    serves as the baseline; the study makes the final claim on the test split, as for every
    strategy.

    Attributes:
        batch: Images per evaluation of a prompt.
        max_rounds: Maximum number of rewrites.
        name: Name for records.
    """

    batch: int = 48
    max_rounds: int = 100
    name: str = "rewrite-from-failures"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`."""
        current, best_score = desk.seed, -1.0
        try:
            cells = desk.batch("rewrite:0", self.batch)
            outcomes = await desk.evaluate(current, cells)
            best_score = mean_score(outcomes) or 0.0
            for number in range(1, self.max_rounds + 1):
                report = await desk.failures(current, outcomes, attribute=False)
                brief = ProposalBrief(
                    prompt=current.prompt,
                    failures=report,
                    scope="whole",
                )
                for edits in await desk.propose(brief):
                    made = desk.candidate(current, edits, origin="rewrite", round=number)
                    if made is None:
                        continue
                    tried = await desk.evaluate(made, desk.batch(f"rewrite:{number}", self.batch))
                    score = mean_score(tried) or 0.0
                    if score > best_score:
                        current, outcomes, best_score = made, tried, score
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
        return current
