"""Gives a reasoner another system prompt: the user's own, or an optimised one."""

from __future__ import annotations

from pathlib import Path

from lens_prompt_opt import PromptedReasoner, load_system_prompt
from lens_reasoner import Reasoner, SystemPrompt
from lens_reasoner.parts import fingerprint
from lens_sdk.errors import UnknownPartError


def prompted(reasoner: Reasoner | None, prompt: SystemPrompt | str | Path) -> Reasoner:
    """Return a copy of a reasoner that follows `prompt`.

    The nano world's offline reasoner has no system prompt, so the rule-following reasoner replaces
    it: the one whose prompts `lens optimize` improves.

    Args:
        reasoner: The reasoner to copy.
        prompt: The prompt, or a file with it: a prompt card from `lens optimize`, .json or .md.

    Raises:
        UnknownPartError: The reasoner has no system prompt.
        PromptFileError: The file contains no prompt.
    """
    found = prompt if isinstance(prompt, SystemPrompt) else load_system_prompt(prompt)
    # Recognised by its fingerprint, as importing its class needs the packages that run it.
    if (fingerprint(reasoner) or "").startswith("nano-reasoner "):
        from lens_sdk.nano_rule_reasoner import NanoRuleReasoner

        return NanoRuleReasoner(found)
    if isinstance(reasoner, PromptedReasoner):
        return reasoner.with_system_prompt(found)
    name = "none" if reasoner is None else type(reasoner).__name__
    raise UnknownPartError(
        f"The reasoner {name!r} has no system prompt.",
        hint="Choose nano, local or openai:MODEL, or leave the system prompt out.",
    )
