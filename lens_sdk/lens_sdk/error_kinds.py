"""Groups errors by what can be done about them."""

from __future__ import annotations

from typing import Literal

from lens_reasoner.errors import (
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageServiceError,
    JudgeError,
    MissingPackagesError,
    QuotaError,
    RateLimitedError,
    ReasonerError,
    UnsupportedSettingError,
)
from lens_sdk.client.errors import (
    LensServerError,
    RequestRefusedError,
    ServerBusyError,
    ServerTimeoutError,
)
from lens_sdk.errors import LimitReachedError, MissingExtraError

ErrorKind = Literal[
    "configuration",
    "missing_extra",
    "unsupported",
    "refused",
    "judge",
    "generator",
    "budget",
    "rate_limit",
    "timeout",
    "server",
]

_BY_CLASS: tuple[tuple[ErrorKind, tuple[type[ReasonerError], ...]], ...] = (
    ("missing_extra", (MissingExtraError, MissingPackagesError)),
    ("budget", (LimitReachedError,)),
    ("refused", (GenerationRefusedError,)),
    ("unsupported", (UnsupportedSettingError,)),
    ("rate_limit", (RateLimitedError, QuotaError, ServerBusyError)),
    ("timeout", (ServerTimeoutError,)),
    ("judge", (JudgeError,)),
    ("server", (ChatError, ImageServiceError, LensServerError)),
    ("generator", (GeneratorError,)),
)
"""Error classes and their kinds; the first match counts."""

_BY_FAULT: dict[str, ErrorKind] = {
    "timeout": "timeout",
    "rate_limited": "rate_limit",
    "quota": "rate_limit",
    "refused": "refused",
    "filtered": "refused",
}
_BY_CODE: dict[str, ErrorKind] = {
    "unsupported_value": "unsupported",
    "unknown_parameter": "unsupported",
    "moderation_blocked": "refused",
    "not_judged": "judge",
    "generator_failed": "generator",
}
TRANSIENT = frozenset({"connection", "timeout", "rate_limited", "server"})
"""Service faults that may be temporary."""


def error_kind(error: ReasonerError) -> ErrorKind:
    """Return the kind of an error.

    Args:
        error: Any `LensError`.

    Returns:
        The kind; "configuration" for anything wrong with names, files, keys or parts.
    """
    if isinstance(error, ChatError | ImageServiceError) and error.fault in _BY_FAULT:
        return _BY_FAULT[error.fault]
    if isinstance(error, LensServerError) and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for kind, classes in _BY_CLASS:
        if isinstance(error, classes):
            return kind
    return "configuration"


def may_work_later(error: ReasonerError) -> bool:
    """Whether the same call may succeed later without any changes."""
    if isinstance(error, JudgeError) and isinstance(error.__cause__, ChatError):
        error = error.__cause__
    if isinstance(error, ChatError | ImageServiceError):
        return error.fault in TRANSIENT
    if isinstance(error, LensServerError) and not isinstance(error, RequestRefusedError):
        return error_kind(error) in {"rate_limit", "timeout"} or error.status in {None, 502, 503}
    return False
