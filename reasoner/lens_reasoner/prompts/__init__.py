"""System prompts in named sections, so that they can be read, compared and edited by section.

The built-in ones are markdown files beside this module.
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
