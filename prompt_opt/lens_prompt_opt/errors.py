"""Errors of lens_prompt_opt. Each says what was wrong and what to do about it.

PromptOptError
 +- PromptSetError
 +- StudyConfigError
 +- BudgetError
 |   +- UnknownCostError
 +- EditError
 +- ProposalError
 +- RunDirectoryError
 |   +- StudyMismatchError
 +- StudyInterruptedError
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_reasoner.errors import ReasonerError

if TYPE_CHECKING:
    from lens_reasoner.types import Usage


class PromptOptError(ReasonerError):
    """Base class of all errors that `lens_prompt_opt` raises deliberately."""


class PromptSetError(PromptOptError, ValueError):
    """Requests that cannot be read, or are too few to split."""


class StudyConfigError(PromptOptError, ValueError):
    """Parts or numbers of a study that are invalid or do not fit together."""


class BudgetError(PromptOptError, ValueError):
    """A budget that is invalid or too small for any study."""


class UnknownCostError(BudgetError):
    """There is a dollar limit, and a part does not state what its calls cost."""


class EditError(PromptOptError, ValueError):
    """An edit that does not apply to its prompt, or touches a protected section."""


class ProposalError(PromptOptError):
    """The proposer returned no usable edit.

    Attributes:
        usage: What the call consumed; None if unknown.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class RunDirectoryError(PromptOptError, OSError):
    """A run directory that cannot be read or written, or is in use by another process."""


class StudyMismatchError(RunDirectoryError):
    """The run directory belongs to a study with other data, parts or settings."""


class StudyInterruptedError(PromptOptError):
    """A service failed and the study stopped; it can be resumed from the recorded calls."""


def require(name: str, value: object, fine: bool, rule: str) -> None:
    """Check a setting.

    Args:
        name: The setting.
        value: Its value.
        fine: Whether the value is valid.
        rule: What it must be, such as "at least 1".

    Raises:
        StudyConfigError: The value is not valid.
    """
    if not fine:
        raise StudyConfigError(f"{name}={value!r} is not {rule}.", hint="Choose another value.")
