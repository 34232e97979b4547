"""The prompt card: an optimised prompt with the evidence for it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from lens_prompt_opt.budget import SpendRow
from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import PromptOptError
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.types import Value


class KindChange(Value):
    """Change of one kind of criterion, on the test split.

    Attributes:
        kind: The kind.
        before: Pass rate under the seed prompt.
        after: Pass rate under the optimised prompt.
        interval: Confidence interval of the difference.
        requests: Number of requests with such criteria.
    """

    kind: str
    before: float
    after: float
    interval: tuple[float, float]
    requests: int


class GainClaim(Value):
    """The one number a study claims: the gain over the seed prompt on unseen requests.

    Attributes:
        gain: Mean score difference, optimised minus seed, on the same requests and image seeds.
        interval: Confidence interval of the gain, over requests and images.
        confidence: Confidence of the interval.
        method: How the interval was computed.
        seed_score: Mean score of the seed prompt, over images with a score under both prompts.
        best_score: Mean score of the optimised prompt, over the same images.
        requests: Number of test requests with a score under both prompts.
        pictures: Images per request and prompt.
        kinds: Change by kind of criterion; descriptive, without a correction for multiple
            comparisons.
        undecided: Shares of criteria that the judge could not decide, under the seed prompt and
            under the optimised one; they do not count for the scores. None in files of older
            versions.
    """

    gain: float
    interval: tuple[float, float]
    confidence: float
    method: str
    seed_score: float
    best_score: float
    requests: int
    pictures: int
    kinds: tuple[KindChange, ...] = ()
    undecided: tuple[float, float] | None = None

    def __str__(self) -> str:
        """The claim in one line, in percentage points."""
        low, high = self.interval
        return (
            f"{100 * self.gain:+.1f} points ({self.confidence:.0%} interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}, {self.requests} unseen requests)"
        )


class PromptCard(Value):
    """A prompt, its origin, and what is known about it.

    Attributes:
        schema_version: Version of this format.
        system_prompt: The prompt that a reasoner loads.
        lineage: The candidates it descends from, from the seed to itself, with their edits and
            hypotheses.
        hypotheses: The edits that are still in the prompt. Each has the measured change on the test
            split, from the seed prompt to this one, for the kinds of criteria it aims at; edits
            with the same aim share that change.
        claim: The final claim; None if the search found nothing to claim.
        decisions: The challenges that led to it.
        data: SHA-256 of all requests and of each split.
        models: Names of the parts, by stage.
        strategy: Name of the search strategy.
        seed: Random seed of the study.
        cost: What the study consumed, by stage.
        version: Version of lens-sdk.
    """

    schema_version: Literal[1] = 1
    system_prompt: SystemPrompt
    lineage: tuple[Candidate, ...]
    hypotheses: tuple[SectionEdit, ...] = ()
    claim: GainClaim | None
    decisions: tuple[Decision, ...]
    data: dict[str, str]
    models: dict[str, str]
    strategy: str
    seed: int
    cost: tuple[SpendRow, ...]
    version: str

    @property
    def text(self) -> str:
        """The prompt as a model reads it."""
        return self.system_prompt.render()

    def save(self, path: str | Path) -> Path:
        """Write the card as JSON; missing folders are created."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> PromptCard:
        """Read a card written by `save`.

        Raises:
            PromptOptError: The file is not a prompt card.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise PromptOptError(
                f"{str(path)!r} is not a prompt card: {error}", hint="Give a file saved by a study."
            ) from error


def load_system_prompt(path: str | Path) -> SystemPrompt:
    """Load a system prompt from a prompt card, or from anything that `SystemPrompt.load` reads.

    Raises:
        PromptFileError: The file does not have a prompt.
        OSError: It cannot be read.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            return PromptCard.model_validate_json(path.read_bytes()).system_prompt
        except ValidationError:
            pass
    return SystemPrompt.load(path)
