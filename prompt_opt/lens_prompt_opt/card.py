"""The prompt card: an optimised prompt with everything that vouches for it."""

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
    """What became of one kind of criterion, on the test split.

    Attributes:
        kind: The kind.
        before: Pass rate under the seed prompt.
        after: Pass rate under the optimised prompt.
        interval: Interval of their difference.
        requests: Requests with such criteria.
    """

    kind: str
    before: float
    after: float
    interval: tuple[float, float]
    requests: int


class GainClaim(Value):
    """The one number a study claims: gain over the seed prompt on requests never used before.

    Attributes:
        gain: Mean difference of score, optimised minus seed, same requests and image seeds.
        interval: Interval of the gain, over requests and images.
        confidence: Its confidence.
        method: How it was computed.
        seed_score: Mean score of the seed prompt, over images with a score under both.
        best_score: Mean score of the optimised prompt, over the same.
        requests: Requests of the test split with a score under both.
        pictures: Images per request and prompt.
        kinds: The same by kind of criterion; a description, not corrected for their number.
        undecided: Shares of the criteria that the judge could not tell, under the seed prompt and
            under the optimised one; they are left out of the scores. None in older files.
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
        """The claim in one line, in points of a hundred."""
        low, high = self.interval
        return (
            f"{100 * self.gain:+.1f} points ({self.confidence:.0%} interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}, {self.requests} unseen requests)"
        )


class PromptCard(Value):
    """A prompt, where it comes from, and what is known of it.

    Attributes:
        schema_version: Version of this format.
        system_prompt: The prompt; what a reasoner loads.
        lineage: The candidates it descends from, the seed first, itself last, with their edits
            and hypotheses.
        hypotheses: The edits that still stand in the prompt, each with what became, on the test
            split, of the kinds of criteria it was aimed at, from the seed prompt to this one. Edits
            with the same aim share that change.
        claim: The final claim; None if the search found nothing to claim.
        decisions: The challenges that led to it.
        data: SHA-256 of the requests, in all and by split.
        models: Names of the parts, by stage.
        strategy: How it was searched.
        seed: Seed of the study.
        cost: What the study consumed, by stage.
        version: Version of the software.
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
        """Write it as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> PromptCard:
        """Read a file written by `save`.

        Raises:
            PromptOptError: If it is no prompt card.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise PromptOptError(
                f"{str(path)!r} is not a prompt card: {error}", hint="Give a file saved by a study."
            ) from error


def load_system_prompt(path: str | Path) -> SystemPrompt:
    """A system prompt from a prompt card, or from whatever `SystemPrompt.load` reads.

    Raises:
        PromptFileError: If there is no prompt in the file.
        OSError: If it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            return PromptCard.model_validate_json(path.read_bytes()).system_prompt
        except ValidationError:
            pass
    return SystemPrompt.load(path)
