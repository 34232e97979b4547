"""Demonstrations: the best rewrites of the search become examples in the prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, variance

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell, Outcome, paired_differences
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, Hypothesis, SectionEdit
from lens_prompt_opt.guards import EXAMPLES_SECTION
from lens_prompt_opt.statistics.sequential import Expectation


@dataclass(frozen=True)
class BootstrappedExamples:
    """Shows the reasoner its own best pairs of request and rewrite; needs no strong model.

    Rewrites are ranked by the score of their images, among requests that neither always pass nor
    always fail. Several sets of examples are compared on search cells, each on requests it does not
    show, and the best one challenges the incumbent.

    Attributes:
        examples: Examples per prompt.
        draws: Number of prompts to compare.
        pictures: Images per request when looking for good rewrites.
        batch: Images per comparison.
        name: Name for records.
    """

    examples: int = 4
    draws: int = 6
    pictures: int = 2
    batch: int = 48
    name: str = "bootstrapped-examples"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`."""
        best, gain = desk.seed, 0.0
        try:
            harvest = desk.batch("harvest", self.pictures * len(desk.splits.search))
            good = _good_rewrites(await desk.evaluate(desk.seed, harvest))
            cells = desk.batch("examples", self.batch)
            if not good:
                desk.history.note("no rewrite was good enough to be shown")
                return desk.incumbent
            await desk.evaluate(desk.seed, cells)
            for number in range(1, self.draws + 1):
                if not desk.fits(len(cells) + desk.challenge_cells):
                    break
                shown = self._choose(desk, good, number)
                made = self._shown(desk, shown, number)
                if made is None:
                    continue
                found = await self._gain(desk, made, cells, {name for name, _ in shown})
                if found > gain:
                    best, gain = made, found
        except BudgetExhaustedError:
            desk.history.note("the budget ended the search")
        if best.id != desk.incumbent.id:
            await desk.challenge(best, expected=Expectation(gain=gain, variance=0.08))
        return desk.incumbent

    def _choose(
        self, desk: Desk, good: Sequence[tuple[str, str]], number: int
    ) -> list[tuple[str, str]]:
        rng = desk.rng(f"examples:{number}")
        # The first draw takes the best rewrites, later ones sample from three times as many.
        pool = list(good[: self.examples if number == 1 else 3 * self.examples])
        return rng.sample(pool, min(self.examples, len(pool)))

    def _shown(self, desk: Desk, shown: Sequence[tuple[str, str]], number: int) -> Candidate | None:
        texts = {request.id: request.text for request in desk.splits.search}
        body = "\n\n".join(f"Request: {texts[name]}\nPrompt: {prompt}" for name, prompt in shown)
        there = any(section.name == EXAMPLES_SECTION for section in desk.seed.prompt.sections)
        edit = SectionEdit(
            section=EXAMPLES_SECTION,
            kind="replace" if there else "add",
            text=f"These rewrites served their requests well.\n\n{body}",
            hypothesis=Hypothesis(reason="shows what good rewrites look like"),
        )
        return desk.candidate(desk.seed, [edit], origin="examples", round=number)

    async def _gain(
        self, desk: Desk, made: Candidate, cells: Sequence[Cell], shown: Collection[str]
    ) -> float:
        """Mean gain on requests that the examples do not show."""
        outcomes = await desk.evaluate(made, cells)
        found = paired_differences(outcomes, desk.outcomes(desk.seed, cells))
        gains = [gain for request, gain in found.items() if request not in shown]
        gain = fmean(gains) if gains else 0.0
        error = sqrt(variance(gains) / len(gains)) if len(gains) > 1 else 1.0
        desk.history.screen(made, desk.seed, images=len(cells), gain=gain, error=error)
        return gain


def _good_rewrites(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Each request's best rewrite, ranked by its score and its lead over the request's mean."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.score is not None and outcome.rewrite:
            found.setdefault(outcome.cell.request, []).append(outcome)
    ranked = []
    for request, group in found.items():
        best = max(group, key=lambda outcome: outcome.score or 0.0)
        score = best.score or 0.0
        others = fmean(outcome.score or 0.0 for outcome in group)
        if score >= 0.5:
            ranked.append((-(score + (score - others)), request, best.rewrite))
    return [(request, rewrite) for _, request, rewrite in sorted(ranked)]
