"""The seam to whatever writes edits of a system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from pydantic import Field

from lens_prompt_opt.edits import SectionEdit
from lens_prompt_opt.failures import FailureReport
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.types import Seconds, Seed, Usage, Value

Scope = Literal["section", "whole"]
"""One section per proposal, or the whole prompt at once as in the published method."""


class ProposalBrief(Value):
    """What a proposer is told.

    Attributes:
        prompt: The system prompt to improve.
        failures: What fails under it, by mode, with counts.
        scope: How much a proposal may change.
        wanted: Number of different proposals.
        tried: Edits tried before, with what became of their hypotheses.
        protected: Sections that must stay as they are.
        max_characters: Longest rendered prompt.
        seed: Seed for what is drawn at random.
    """

    prompt: SystemPrompt
    failures: FailureReport
    scope: Scope = "section"
    wanted: int = Field(default=1, ge=1)
    tried: tuple[SectionEdit, ...] = ()
    protected: tuple[str, ...] = ()
    max_characters: int = 12_000
    seed: Seed = 0


class Proposals(Value):
    """What a proposer suggests.

    Attributes:
        edits: Alternatives, each a set of edits to be made together.
        usage: What they consumed.
        seconds: How long it took.
    """

    edits: tuple[tuple[SectionEdit, ...], ...]
    usage: Usage = Usage()
    seconds: Seconds = 0.0


class Proposer(Protocol):
    """Anything that suggests edits."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    async def propose(self, brief: ProposalBrief, pictures: Mapping[str, bytes]) -> Proposals:
        """Suggest up to `brief.wanted` alternatives.

        Args:
            brief: What to improve, and what is known.
            pictures: Failed images by the names in the brief's examples; may be empty.

        Raises:
            ReasonerError: If there is no usable suggestion.
        """
        ...
