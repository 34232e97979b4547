"""Exceptions of the OpenAI client turned into ours, with secrets removed."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from pydantic import SecretStr

from lens_reasoner.errors import (
    ChatError,
    ChatFault,
    ModelNotFoundError,
    QuotaError,
    RateLimitedError,
)

_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked"}
_NAMED_STATUSES = {"rate_limit_exceeded": 429, "server_error": 500}
HIDDEN = "[secret]"
SHORTEST_SECRET = 8

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


def scrub(error: BaseException, secret: SecretStr) -> None:
    """Remove `secret` from `error` and from everything it was caused by.

    Their texts lose it; the requests and responses they hold, whose headers have it, go.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.args = tuple(hide(part, secret) for part in current.args)
        held = vars(current)
        for name in ("message", "body", "code", "type", "param", "request_id", "doc", "object"):
            if name in held:
                held[name] = hide(held[name], secret)
        for name in ("request", "response", "_request", "_response"):
            if name in held:
                held[name] = None
        current = current.__cause__ or current.__context__


def hide(part: Any, secret: SecretStr) -> Any:
    """`part`, a text or JSON value, without `secret`.

    Keys of a few letters, such as the "x" given to local servers, are no secrets.
    """
    if len(secret) < SHORTEST_SECRET:
        return part
    if isinstance(part, str):
        return part.replace(secret.get_secret_value(), HIDDEN)
    if isinstance(part, bytes):
        return part.replace(secret.get_secret_value().encode(), HIDDEN.encode())
    if isinstance(part, dict):
        return {hide(key, secret): hide(value, secret) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(hide(value, secret) for value in part)
    return part


def from_client(
    error: Exception, *, model: str, secret: SecretStr, missing_hint: str = ""
) -> ChatError:
    """Our error for an exception raised by the client library, to be raised from it.

    Args:
        error: What was raised; the key is removed from it.
        model: The model asked.
        secret: The key.
        missing_hint: What to do if the server does not have the model.
    """
    import openai

    wait = retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None
    scrub(error, secret)
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, model, wait, missing_hint)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return _build("timeout", f"{model!r} did not answer in time.", model, str(error))
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        what = f"The connection to the server of {model!r} failed: {cause or type(cause).__name__}"
        return _build("connection", what, model, str(error))
    what = f"The reply of {model!r} cannot be read: {error}"
    return _build("malformed", what, model, str(error))


def from_reply(data: object, *, model: str) -> ChatError | None:
    """Our error for a reply that holds nothing but one, whatever its status said; None for others.

    Gateways answer so when what stands behind them failed: with a good status, and the real one in
    the error's "code".
    """
    told = data.get("error") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not told or any(isinstance(v, list) for v in data.values()):
        return None
    told = told if isinstance(told, dict) else {"message": told}
    codes = {str(told[name]) for name in ("code", "type") if told.get(name)}
    status = next((int(code) for code in sorted(codes) if re.fullmatch("[45][0-9]{2}", code)), None)
    status = status or next((_NAMED_STATUSES[c] for c in codes if c in _NAMED_STATUSES), None)
    words = _short(str(told.get("message") or told))
    fault = _fault(status, codes)
    hint = _STATUS_HINTS.get(status or 0, "")
    return _build(
        fault,
        f"The server of {model!r} answered with an error: {words}",
        model,
        words,
        hint=hint,
        status=status,
    )


def _from_status(error: Any, model: str, wait: float | None, missing_hint: str) -> ChatError:
    status = int(error.status_code)
    codes = {str(code) for code in (error.code, error.type) if code}
    message = f"The server of {model!r} answered with status {status}: {_short(error.message)}"
    known: dict[str, Any] = {"status": status, "request_id": error.request_id, "retry_after": wait}
    if status == 404 and ("model_not_found" in codes or model in error.message):
        return ModelNotFoundError(
            message,
            fault="rejected",
            model=model,
            detail=_short(str(error)),
            hint=missing_hint or _STATUS_HINTS[404],
            **known,
        )
    hint = _STATUS_HINTS.get(status, "")
    return _build(_fault(status, codes), message, model, str(error), hint=hint, **known)


def _fault(status: int | None, codes: set[str]) -> ChatFault:
    if codes & _QUOTA_CODES or status == 402:
        return "quota"
    if codes & _FILTER_CODES:
        return "filtered"
    if status is None:
        return "malformed"
    if status in {408, 429}:
        return "timeout" if status == 408 else "rate_limited"
    return "server" if status == 409 or status >= 500 else "rejected"


def _build(
    fault: ChatFault, what: str, model: str, detail: str, *, hint: str = "", **known: Any
) -> ChatError:
    kinds = {"quota": QuotaError, "rate_limited": RateLimitedError}
    return kinds.get(fault, ChatError)(
        what,
        fault=fault,
        model=model,
        detail=_short(detail),
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
                date = email.utils.parsedate_to_datetime(value)
            except ValueError:
                continue
            # HTTP's dates are of Greenwich, its older form without saying so.
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
