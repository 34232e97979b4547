"""The built-in system prompts: the technical report's rules in our own words.

Source: arXiv 2605.21573, its reasoner and the prompts it uses for benchmarks.
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
"""For short requests with objects, numbers, colours and positions that a detector checks."""

ONEIG_PROMPT = _builtin("oneig")
"""For mixed requests: portraits, objects, styles, dense text, knowledge and reasoning."""

TEXT_PROMPT = _builtin("text_rendering")
"""For images with readable text."""

REVISION_PROMPT = _builtin("revision")
"""For revising a prompt whose images missed something."""

BUILTIN_PROMPTS = {
    prompt.name: prompt for prompt in (GENERAL_PROMPT, GENEVAL_PROMPT, ONEIG_PROMPT, TEXT_PROMPT)
}
"""The prompts for rewriting, by name."""
