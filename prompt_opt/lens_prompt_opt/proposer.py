"""The protocol for whatever writes edits of a system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from pydantic import Field

from lens_prompt_opt.edits import SectionEdit
from lens_prompt_opt.failures import FailureReport
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.types import Seconds, Seed, Usage, Value

Scope = Literal["section", "whole"]
"""Whether a proposal changes one section, or the whole prompt as in the published method."""


class ProposalBrief(Value):
    """What a proposer is given.

    Attributes:
        prompt: The system prompt to improve.
        failures: What fails under it, by mode, with counts.
        scope: How much a proposal may change.
        wanted: Number of alternatives.
        tried: Edits tried before, with the test results of their hypotheses.
        protected: Sections that must not change.
        max_characters: Maximum length of the rendered prompt.
        seed: Random seed.
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
        edits: Alternatives, each a set of edits that belong together.
        usage: What they consumed.
        seconds: Duration of the call.
    """

    edits: tuple[tuple[SectionEdit, ...], ...]
    usage: Usage = Usage()
    seconds: Seconds = 0.0


class Proposer(Protocol):
    """Suggests edits of a system prompt."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    async def propose(self, brief: ProposalBrief, pictures: Mapping[str, bytes]) -> Proposals:
        """Suggest up to `brief.wanted` alternatives.

        Args:
            brief: The prompt and what is known about it.
            pictures: Failed images, by their names in the brief's examples; may be empty.

        Raises:
            ReasonerError: There is no usable suggestion.
        """
        ...
