"""Giving a reasoner another system prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from lens_prompt_opt.errors import StudyConfigError
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.reasoner import Reasoner


@runtime_checkable
class PromptedReasoner(Protocol):
    """A reasoner that can be copied with another system prompt."""

    def with_system_prompt(self, prompt: SystemPrompt) -> Reasoner:
        """Return a copy of this reasoner with another system prompt."""
        ...


ReasonerSource = PromptedReasoner | Callable[[SystemPrompt], Reasoner]
"""Where a study gets a reasoner for each candidate prompt."""


def bind(source: ReasonerSource, prompt: SystemPrompt) -> Reasoner:
    """A reasoner that uses `prompt`.

    Raises:
        StudyConfigError: `source` does not accept a system prompt.
    """
    if isinstance(source, PromptedReasoner):
        return source.with_system_prompt(prompt)
    if callable(source):
        return source(prompt)
    raise StudyConfigError(
        f"The reasoner {type(source).__name__!r} cannot be given a system prompt.",
        hint="Give it a with_system_prompt method, or give a function of the prompt.",
    )
