"""The result of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lens_prompt_opt.budget import Budget, SpendRow
from lens_prompt_opt.card import GainClaim, PromptCard
from lens_prompt_opt.history import HistoryRecord
from lens_prompt_opt.statistics.variance import VarianceLedger
from lens_prompt_opt.transfer import GeneratorMatrix, GeneratorPrompt
from lens_reasoner.types import Answer, Value

StudyEnd = Literal["improved", "no_improvement"]


class Side(Value):
    """The result of one prompt on one cell.

    Attributes:
        image: Name of the image in the run directory's `pictures`; empty if there is none.
        score: Share of criteria met.
        rewrite: The prompt given to the generator.
        answers: The judge's answers by criterion.
        evidence: What the judge saw, by criterion.
        failure: Why there is no image or no score; empty otherwise.
    """

    image: str
    score: float | None
    rewrite: str
    answers: dict[str, Answer] = Field(default_factory=dict)
    evidence: dict[str, str] = Field(default_factory=dict)
    failure: str = ""


class PicturePair(Value):
    """A request of the test split before and after, under the same image seed.

    Attributes:
        request: The request's text.
        seed: The image seed.
        generator: Index of the generator in the study.
        before: Result under the seed prompt.
        after: Result under the optimised prompt.
        questions: The criteria's questions by name.
    """

    request: str
    seed: int
    generator: int
    before: Side
    after: Side
    questions: dict[str, str] = Field(default_factory=dict)


class StudyResult(Value):
    """A finished study; round-trips through JSON.

    Attributes:
        best: Card of the best prompt, which is the seed prompt if no better one was accepted.
        end: Whether the best prompt differs from the seed.
        unproven: If no prompt was accepted, the most promising challenger, with the interval of its
            gain on the test split; the study's error rate does not cover it. None otherwise.
        variance: Where the variance of scores comes from; None if the budget was too small to
            measure it.
        history: Everything that happened.
        pictures: The pairs of images that the claim is based on.
        generators: Names of the generators, in the order of `PicturePair.generator`.
        per_generator: With several generators, each one's own prompt; `best` is the shared one.
        matrix: All these prompts on all generators, on the test split, and the loss from moving
            them; None with one generator, or if no prompt is better than the seed.
        cost: What was consumed, by stage.
        budget: The limits.
        earlier_ends: How often this run had ended with another result before its budget was raised.
            Each end used the gate's whole error rate and looked at the same test split, so a later
            claim is weaker than its numbers suggest.
        run_dir: Folder of the run; None if nothing was recorded.
    """

    best: PromptCard
    end: StudyEnd
    unproven: PromptCard | None = None
    variance: VarianceLedger | None
    history: HistoryRecord
    pictures: tuple[PicturePair, ...] = ()
    generators: tuple[str, ...] = ()
    per_generator: tuple[GeneratorPrompt, ...] = ()
    matrix: GeneratorMatrix | None = None
    cost: tuple[SpendRow, ...]
    budget: Budget
    earlier_ends: int = 0
    run_dir: Path | None = None

    @property
    def claim(self) -> GainClaim | None:
        """The gain over the seed prompt on the test split; None if the seed prompt is the best."""
        return self.best.claim

    def cost_table(self) -> str:
        """Consumption by stage as a plain-text table."""
        head = f"{'stage':<10}{'calls':>8}{'images':>8}{'usd':>10}{'seconds':>10}"
        rows = [
            f"{row.stage:<10}{row.calls:>8}{row.images:>8}{row.usd:>10.4f}{row.seconds:>10.1f}"
            for row in self.cost
        ]
        return "\n".join([head, *rows])

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page about the study, and return its path.

        It has images if the study had a run directory.
        """
        from lens_prompt_opt.report import write_report

        return write_report(self, Path(path))
