"""System prompts made of named sections, which can be compared and edited separately.

The built-in prompts are markdown files beside this module.
"""

from lens_reasoner.prompts.builtin import (
    BUILTIN_PROMPTS,
    GENERAL_PROMPT,
    GENEVAL_PROMPT,
    ONEIG_PROMPT,
    REVISION_PROMPT,
    TEXT_PROMPT,
)
from lens_reasoner.prompts.system_prompt import PromptSection, SystemPrompt

__all__ = [
    "BUILTIN_PROMPTS",
    "GENERAL_PROMPT",
    "GENEVAL_PROMPT",
    "ONEIG_PROMPT",
    "REVISION_PROMPT",
    "TEXT_PROMPT",
    "PromptSection",
    "SystemPrompt",
]
