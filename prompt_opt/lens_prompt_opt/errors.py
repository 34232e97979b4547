"""Errors of the optimiser, each saying what was wrong and what to do about it.

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
    """Base class of every error raised on purpose by `lens_prompt_opt`."""


class PromptSetError(PromptOptError, ValueError):
    """Requests that cannot be read or are too few to be split."""


class StudyConfigError(PromptOptError, ValueError):
    """Parts or numbers of a study that do not fit together."""


class BudgetError(PromptOptError, ValueError):
    """A budget that makes no sense or is too small for any study."""


class UnknownCostError(BudgetError):
    """There is a limit in dollars, and a part does not say what its calls cost."""


class EditError(PromptOptError, ValueError):
    """An edit that does not fit its prompt, or touches what is protected."""


class ProposalError(PromptOptError):
    """A proposer that gave no usable edit.

    Attributes:
        usage: What asking it consumed; None if unknown.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class RunDirectoryError(PromptOptError, OSError):
    """A run directory that cannot be read, written, or is in use by another process."""


class StudyMismatchError(RunDirectoryError):
    """The run directory belongs to a study with other data, parts or settings."""


class StudyInterruptedError(PromptOptError):
    """A service failed and the study stopped; what was paid for is kept, and it can be resumed."""


def require(name: str, value: object, fine: bool, rule: str) -> None:
    """Refuse a setting that makes no study.

    Args:
        name: The setting.
        value: What it was set to.
        fine: Whether that will do.
        rule: What it must be, such as "at least 1".

    Raises:
        StudyConfigError: If it will not do.
    """
    if not fine:
        raise StudyConfigError(f"{name}={value!r} is not {rule}.", hint="Choose another value.")
