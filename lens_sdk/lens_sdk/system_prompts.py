"""Telling a reasoner something else: a system prompt of one's own, or one that was optimised."""

from __future__ import annotations

from pathlib import Path

from lens_prompt_opt import PromptedReasoner, load_system_prompt
from lens_reasoner import Reasoner, SystemPrompt
from lens_reasoner.parts import fingerprint
from lens_sdk.errors import UnknownPartError


def prompted(reasoner: Reasoner | None, prompt: SystemPrompt | str | Path) -> Reasoner:
    """A reasoner like this one that follows `prompt`.

    The offline reasoner of the nano world reads no system prompt; the rule follower takes its
    place, which is what `lens optimize` improves prompts for there.

    Args:
        reasoner: Whom to tell.
        prompt: The prompt, or its file: a prompt card of `lens optimize`, .json or .md.

    Raises:
        UnknownPartError: If the reasoner has no system prompt.
        PromptFileError: If the file holds none.
    """
    found = prompt if isinstance(prompt, SystemPrompt) else load_system_prompt(prompt)
    # Told by its fingerprint, as importing its class would need the packages to run it.
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
