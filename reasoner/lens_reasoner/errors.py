"""Errors of the reasoner, each saying what was wrong and what to do about it.

ReasonerError
 +- MissingKeyError
 +- MissingPackagesError
 +- ChatError
 |   +- ModelNotFoundError
 |   +- QuotaError
 |   +- RateLimitedError
 |   +- TextOnlyError
 +- JudgeError
 +- PromptFileError
 +- ProtectedSectionError
 +- RubricFileError
 +- CalibrationError
 +- GeneratorError
 |   +- UnsupportedSettingError
 |   +- GenerationRefusedError
 |   +- ImageServiceError
 +- PriceTableError
 +- ImageFileError
 +- LoopConfigError
 +- RunRecordError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lens_reasoner.types import Usage

ChatFault = Literal[
    "connection",
    "timeout",
    "html",
    "malformed",
    "truncated",
    "filtered",
    "refused",
    "off_schema",
    "rejected",
    "quota",
    "rate_limited",
    "server",
    "unavailable",
]
"""Why a chat call gave no usable reply."""

UNPAID: frozenset[ChatFault] = frozenset({"rejected", "quota", "rate_limited"})
"""Those of calls turned away before anything was done, so that nothing is billed."""


class ReasonerError(Exception):
    """Base class of every error raised on purpose by `lens_reasoner`.

    Attributes:
        message: What was wrong, naming the value and the rule.
        hint: What to do about it; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message and the hint in one line."""
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by attributes, because subclasses have keyword-only arguments."""
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(
    kind: type[ReasonerError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> ReasonerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class MissingPackagesError(ReasonerError, ImportError):
    """Packages of an optional extra are not installed.

    Attributes:
        packages: What is missing.
        extra: Name of the extra that brings them.
    """

    def __init__(self, what: str, packages: tuple[str, ...], *, extra: str) -> None:
        super().__init__(
            f"{what} needs {', '.join(packages)}.",
            hint=f'Install with: pip install "lens-sdk[{extra}]"',
        )
        self.packages = packages
        self.extra = extra


class MissingKeyError(ReasonerError):
    """No API key where the chosen server needs one, or one that no server takes."""


class PriceTableError(ReasonerError, ValueError):
    """Prices that are not a table, or a file of them that cannot be read."""


class ChatError(ReasonerError):
    """A chat call that gave no usable reply.

    Attributes:
        fault: The kind of failure.
        model: The model that was asked.
        status: HTTP status of the last answer, if there was one.
        request_id: The server's name for the call, if it sent one.
        usage: What the failed call consumed, where the reply said so.
        detail: The server's or the model's own words, with secrets removed.
        retry_after: Seconds the server asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: ChatFault,
        model: str = "",
        status: int | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
        detail: str = "",
        retry_after: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.fault: ChatFault = fault
        self.model = model
        self.status = status
        self.request_id = request_id
        self.usage = usage
        self.detail = detail
        self.retry_after = retry_after


class ModelNotFoundError(ChatError):
    """The server does not have the model; the hint names the setting to change."""


class TextOnlyError(ChatError):
    """A model that reads text was shown an image; it cannot judge one."""


class QuotaError(ChatError):
    """The account has no credit left; waiting does not help."""


class RateLimitedError(ChatError):
    """Too many calls for now, and the allowed time for retrying is over."""


class JudgeError(ReasonerError):
    """A judge or rubric writer that gave no verdict: a missing score, never a zero.

    Attributes:
        usage: What the failed call consumed, where that is known.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class PromptFileError(ReasonerError, ValueError):
    """A file that is no system prompt."""


class ProtectedSectionError(ReasonerError, ValueError):
    """An edit of a section that must stay as it is."""


class RubricFileError(ReasonerError, ValueError):
    """A file that is no rubric."""


class CalibrationError(ReasonerError, ValueError):
    """Labels that cannot be read, or do not fit the verdicts."""


class GeneratorError(ReasonerError):
    """A generator that failed or returned something that is not an image.

    Attributes:
        usage: What the failed call consumed; None if unknown.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class UnsupportedSettingError(GeneratorError, ValueError):
    """A setting the chosen backend cannot honour.

    Attributes:
        setting: Name of the setting.
        value: The value asked for.
        backend: Name of the generator or client.
    """

    def __init__(
        self, message: str, *, setting: str, value: object, backend: str, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.setting = setting
        self.value = value
        self.backend = backend


class UnsupportedSettingWarning(UserWarning):
    """A setting the chosen backend cannot honour was left out, as the user allowed."""


class GenerationRefusedError(GeneratorError):
    """The provider or a safety checker refused to draw this prompt; asking again does not help.

    Attributes:
        categories: What it ran into, in the provider's own words; may be empty.
        usage: What the call consumed; None if unknown.
        request_id: The server's name for the call, if it sent one.
        detail: The provider's own words.
    """

    def __init__(
        self,
        message: str,
        *,
        categories: tuple[str, ...] = (),
        usage: Usage | None = None,
        request_id: str | None = None,
        detail: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, usage=usage, hint=hint)
        self.categories = categories
        self.request_id = request_id
        self.detail = detail


class ImageServiceError(GeneratorError):
    """A call to an image server that gave no usable image.

    Attributes:
        fault: The kind of failure.
        usage: What the call consumed; None if unknown, as after a reply that was never read.
        status: HTTP status of the last answer, if there was one.
        request_id: The server's name for the call, if it sent one.
        detail: The server's own words, with secrets removed.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: ChatFault,
        usage: Usage | None = None,
        status: int | None = None,
        request_id: str | None = None,
        detail: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, usage=usage, hint=hint)
        self.fault: ChatFault = fault
        self.status = status
        self.request_id = request_id
        self.detail = detail


class ImageFileError(ReasonerError, ValueError):
    """A file or byte string that is not a PNG, or a PNG without our metadata."""


class LoopConfigError(ReasonerError, ValueError):
    """Parts of the loop that do not fit together, such as a judge without a rubric."""


class RunRecordError(ReasonerError, ValueError):
    """A run's folder that cannot be read, holds another run, or is being written by another."""
