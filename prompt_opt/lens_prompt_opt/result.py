"""What a study comes to."""

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
    """What one prompt did on one cell.

    Attributes:
        image: Name of the image in the run directory's `pictures`; empty if none was drawn.
        score: Its score.
        rewrite: The prompt that was drawn.
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
        request: The user's words.
        seed: The image seed.
        generator: Place of the generator in the study.
        before: Under the seed prompt.
        after: Under the optimised prompt.
        questions: The criteria in words, by name.
    """

    request: str
    seed: int
    generator: int
    before: Side
    after: Side
    questions: dict[str, str] = Field(default_factory=dict)


class StudyResult(Value):
    """A finished study; all of it survives JSON.

    Attributes:
        best: The card of the best prompt, which is the seed's if nothing better was established.
        end: Whether the best prompt is another than the seed.
        unproven: Where nothing was established, the challenger that looked best, with the interval
            of its gain on the test split; the study's error rate does not speak for it. None
            otherwise.
        variance: Where the spread of scores comes from; None if there was no budget to find out.
        history: Everything that happened.
        pictures: What the claim rests on, image by image.
        generators: Names of the generators, in the order of `PicturePair.generator`.
        per_generator: With several generators, each one's own prompt; `best` is the shared one.
        matrix: All these prompts on all generators, on the test split, and what is lost by moving
            them; None with one generator, or if no prompt is better than the seed.
        cost: What was consumed, by stage.
        budget: The limits.
        earlier_ends: How often this run came to another end before its budget was raised. Each end
            had the whole error rate of the gate and a look at the same test split, so a claim
            after others is weaker than its numbers say.
        run_dir: Where the files are; None if nothing was kept.
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
        """The gain over the seed prompt on the test split; None if the best is the seed."""
        return self.best.claim

    def cost_table(self) -> str:
        """What was consumed, as lines of text."""
        head = f"{'stage':<10}{'calls':>8}{'images':>8}{'usd':>10}{'seconds':>10}"
        rows = [
            f"{row.stage:<10}{row.calls:>8}{row.images:>8}{row.usd:>10.4f}{row.seconds:>10.1f}"
            for row in self.cost
        ]
        return "\n".join([head, *rows])

    def report(self, path: str | Path) -> Path:
        """Write everything as one HTML page that needs nothing else, and return its path.

        Images are in it if the study had a run directory.
        """
        from lens_prompt_opt.report import write_report

        return write_report(self, Path(path))
