"""Errors of lens_reasoner. Each says what was wrong and what to do about it.

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
"""Faults of calls that the server rejected up front, so that nothing is billed."""


class ReasonerError(Exception):
    """Base class of all errors that `lens_reasoner` raises deliberately.

    Attributes:
        message: What was wrong, with the value and the rule it breaks.
        hint: What to do about it; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message followed by the hint."""
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
        packages: The missing packages.
        extra: Name of the extra that installs them.
    """

    def __init__(self, what: str, packages: tuple[str, ...], *, extra: str) -> None:
        super().__init__(
            f"{what} needs {', '.join(packages)}.",
            hint=f'Install with: pip install "lens-sdk[{extra}]"',
        )
        self.packages = packages
        self.extra = extra


class MissingKeyError(ReasonerError):
    """A missing API key, or a key with characters that no server accepts."""


class PriceTableError(ReasonerError, ValueError):
    """Not a valid price table, or a price file that cannot be read."""


class ChatError(ReasonerError):
    """A chat call gave no usable reply.

    Attributes:
        fault: The kind of failure.
        model: The model that was called.
        status: HTTP status of the last response, if there was one.
        request_id: The server's ID of the call, if it sent one.
        usage: What the failed call consumed, if the reply said so.
        detail: What the server or the model said, with secrets removed.
        retry_after: Seconds that the server asked to wait, if it did.
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
    """A text-only model was sent an image."""


class QuotaError(ChatError):
    """The account has no credit left; waiting does not help."""


class RateLimitedError(ChatError):
    """Too many calls, and the time allowed for retries is over."""


class JudgeError(ReasonerError):
    """A judge or rubric writer failed: the score is missing, never 0.

    Attributes:
        usage: What the failed call consumed, if known.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class PromptFileError(ReasonerError, ValueError):
    """A file that is not a system prompt."""


class ProtectedSectionError(ReasonerError, ValueError):
    """An edit to a protected section of a system prompt."""


class RubricFileError(ReasonerError, ValueError):
    """A file that is not a rubric."""


class CalibrationError(ReasonerError, ValueError):
    """Labels that cannot be read or do not match the verdicts."""


class GeneratorError(ReasonerError):
    """A generator failed or returned something that is not an image.

    Attributes:
        usage: What the failed call consumed; None if unknown.
    """

    def __init__(self, message: str, *, usage: Usage | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class UnsupportedSettingError(GeneratorError, ValueError):
    """The generator or client does not support a setting.

    Attributes:
        setting: Name of the setting.
        value: The requested value.
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
    """An unsupported setting was left out, as the user allowed."""


class GenerationRefusedError(GeneratorError):
    """The provider or a safety checker refused the prompt; retrying does not help.

    Attributes:
        categories: Categories of the refusal as the provider names them; may be empty.
        usage: What the call consumed; None if unknown.
        request_id: The server's ID of the call, if it sent one.
        detail: What the provider said.
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
    """A call to an image server gave no usable image.

    Attributes:
        fault: The kind of failure.
        usage: What the call consumed; None if unknown, for example if the reply was never read.
        status: HTTP status of the last response, if there was one.
        request_id: The server's ID of the call, if it sent one.
        detail: What the server said, with secrets removed.
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
    """Not a supported image file, or an image file without lens-sdk's metadata."""


class LoopConfigError(ReasonerError, ValueError):
    """Loop parts that are invalid or do not fit together, such as a judge without a rubric."""


class RunRecordError(ReasonerError, ValueError):
    """A run folder that cannot be read, belongs to another run, or is in use by another process."""
