"""The built-in system prompts: our own wording of rules that the technical report describes.

Source: arXiv 2605.21573, its reasoner and the separate prompts it names for benchmarks.
"""

from __future__ import annotations

from pathlib import Path

from lens_reasoner.prompts.system_prompt import SystemPrompt

_FOLDER = Path(__file__).parent


def _builtin(name: str) -> SystemPrompt:
    return SystemPrompt.load(_FOLDER / f"{name}.md")


GENERAL_PROMPT = _builtin("general")
"""For any request."""

GENEVAL_PROMPT = _builtin("geneval")
"""For short requests of objects, numbers, colours and places that a detector will check."""

ONEIG_PROMPT = _builtin("oneig")
"""For mixed requests: portraits, objects, styles, dense text, knowledge and reasoning."""

TEXT_PROMPT = _builtin("text_rendering")
"""For images in which writing must be readable."""

REVISION_PROMPT = _builtin("revision")
"""For mending a prompt whose images missed something."""

BUILTIN_PROMPTS = {
    prompt.name: prompt for prompt in (GENERAL_PROMPT, GENEVAL_PROMPT, ONEIG_PROMPT, TEXT_PROMPT)
}
"""The prompts a reasoner can be given, by name."""
