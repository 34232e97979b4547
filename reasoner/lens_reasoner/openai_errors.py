"""Exceptions of the OpenAI client turned into ours, with secrets removed."""

from __future__ import annotations

import contextlib
import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

from lens_reasoner.errors import ChatError, ChatFault, QuotaError, RateLimitedError

_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked"}
_HIDDEN = "[secret]"
_SHORTEST_SECRET = 8

_HINTS: dict[ChatFault, str] = {
    "connection": "Check the base URL and the network, and that the server runs.",
    "timeout": "Raise RetryPolicy.timeout or choose a faster model.",
    "quota": "Add credit to the account or use another key; waiting does not help.",
    "rate_limited": "Make fewer calls at a time, or raise RetryPolicy.deadline.",
    "server": "The provider has trouble; try again later or choose another model.",
    "filtered": "The provider's content filter stopped the call; change the request.",
    "malformed": "Check that base_url names an OpenAI-compatible API, usually ending in /v1.",
}
_STATUS_HINTS = {
    401: "Check OPENAI_API_KEY.",
    403: "This key may not use this model.",
    404: "Check the model name and that base_url ends in /v1; the model may have been shut down.",
}


def scrub(error: BaseException, secret: str) -> None:
    """Replace `secret` in the texts of `error` and of everything it was caused by."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.args = tuple(hide(part, secret) for part in current.args)
        for name in ("message", "body"):
            with contextlib.suppress(AttributeError):
                setattr(current, name, hide(getattr(current, name), secret))
        current = current.__cause__ or current.__context__


def hide(part: Any, secret: str) -> Any:
    """`part`, a text or JSON value, without `secret`.

    Keys of a few letters, such as the "x" given to local servers, are no secrets.
    """
    if len(secret) < _SHORTEST_SECRET:
        return part
    if isinstance(part, str):
        return part.replace(secret, _HIDDEN)
    if isinstance(part, bytes):
        return part.replace(secret.encode(), _HIDDEN.encode())
    if isinstance(part, dict):
        return {key: hide(value, secret) for key, value in part.items()}
    if isinstance(part, list):
        return [hide(value, secret) for value in part]
    return part


def from_client(error: Exception, *, model: str, secret: str) -> ChatError:
    """Our error for an exception raised by the client library, to be raised from it."""
    import openai

    scrub(error, secret)
    if isinstance(error, openai.APITimeoutError):
        return _build("timeout", f"{model!r} did not answer in time.", model, error)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        what = f"The connection to the server of {model!r} failed: {cause or type(cause).__name__}"
        return _build("connection", what, model, error)
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, model)
    what = f"The reply of {model!r} cannot be read: {error}"
    return _build("malformed", what, model, error)


def _from_status(error: Any, model: str) -> ChatError:
    status = int(error.status_code)
    codes = {str(code) for code in (error.code, error.type) if code}
    fault: ChatFault
    if codes & _QUOTA_CODES or status == 402:
        fault = "quota"
    elif codes & _FILTER_CODES:
        fault = "filtered"
    elif status == 429:
        fault = "rate_limited"
    elif status == 408:
        fault = "timeout"
    elif status == 409 or status >= 500:
        fault = "server"
    else:
        fault = "rejected"
    headers = error.response.headers
    return _build(
        fault,
        f"The server of {model!r} answered with status {status}: {_short(error.message)}",
        model,
        error,
        status=status,
        request_id=error.request_id,
        retry_after=retry_after(headers),
        hint=_STATUS_HINTS.get(status, ""),
    )


def _build(
    fault: ChatFault, what: str, model: str, error: Exception, *, hint: str = "", **known: Any
) -> ChatError:
    kinds = {"quota": QuotaError, "rate_limited": RateLimitedError}
    return kinds.get(fault, ChatError)(
        what,
        fault=fault,
        model=model,
        detail=_short(str(error)),
        hint=hint or _HINTS.get(fault, ""),
        **known,
    )


def _short(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or a date); None if unset."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if not value:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
