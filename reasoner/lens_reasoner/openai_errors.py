"""Converting the OpenAI client's exceptions into ours, with secrets removed."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
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

# Compared in lower case and without separators, because every service spells them differently.
_QUOTA_CODES = {
    "arrearage",
    "billinghardlimitreached",
    "billingnotactive",
    "budgetexceeded",
    "exceededcurrentquotaerror",
    "insufficientquota",
}
_FILTER_CODES = {
    "contentfilter",
    "contentpolicyviolation",
    "datainspectionfailed",
    "moderationblocked",
    "responsibleaipolicyviolation",
}
_NAMED_STATUSES = {"rate_limit_exceeded": 429, "server_error": 500}
HIDDEN = "[secret]"
SHORTEST_SECRET = 8

_HINTS: dict[ChatFault, str] = {
    "connection": "Check the base URL and the network, and that the server runs.",
    "timeout": "Raise RetryPolicy.timeout or choose a faster model.",
    "quota": "Add credit to the account or use another key; waiting does not help.",
    "rate_limited": "Make fewer calls at a time, or raise RetryPolicy.deadline.",
    "server": "The provider has a problem; try again later or choose another model.",
    "filtered": "The provider's content filter stopped the call; change the request.",
    "malformed": "Check that base_url names an OpenAI-compatible API, usually ending in /v1.",
}
_BASE_URL_HINT = "Check that base_url names the API, usually ending in /v1."
_STATUS_HINTS = {
    401: "Check the key: OPENAI_API_KEY, or LENS_IMAGE_API_KEY for an image server.",
    403: "This key may not use this model.",
    404: "Check the model name and that base_url ends in /v1; the model may have been shut down.",
    405: _BASE_URL_HINT,
    413: "Send less: a smaller image, or a shorter request.",
    501: _BASE_URL_HINT,
}
_OF_MODERATION = re.compile(
    r"content (policy|moderation|violates)|safety (system|check|filter)|violates? (our|usage)|nsfw",
    re.IGNORECASE,
)
_WAIT = re.compile(
    r"(?:try again|retry) in (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?) ?(m?)s)?", re.IGNORECASE
)
_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")


def scrub(error: BaseException, secret: SecretStr) -> None:
    """Remove `secret` from `error` and from all of its causes.

    Messages are cleaned; requests and responses, whose headers have the key, are dropped.
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

    Keys of a few characters, such as the "x" given to local servers, are not secret.
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
    """Our error for an exception of the client library, to be raised from it.

    Args:
        error: The exception; the key is removed from it.
        model: Name of the model.
        secret: The key.
        missing_hint: What to do if the server does not have the model.
    """
    import openai

    wait = retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None
    scrub(error, secret)
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, model, wait, missing_hint)
    if isinstance(error, json.JSONDecodeError) and not error.doc.strip():
        return _build("connection", f"The reply of {model!r} is empty.", model, str(error))
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return _build("timeout", f"{model!r} did not answer in time.", model, str(error))
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        what = f"The connection to the server of {model!r} failed: {cause or type(cause).__name__}"
        return _build("connection", what, model, str(error))
    what = f"The reply of {model!r} cannot be read: {error}"
    return _build("malformed", what, model, str(error))


def from_reply(data: object, *, model: str) -> ChatError | None:
    """Our error for a reply that consists of an error despite its status; None for other replies.

    Gateways do this when the service behind them fails: the status is a success, and the real one
    is in the error's "code".
    """
    if not isinstance(data, dict) or not data.get("error") or "output" in data:
        return None
    if any(value and isinstance(value, list) for value in data.values()):
        return None
    told = read_told(data["error"])
    status = next((int(c) for c in sorted(told.codes) if re.fullmatch("[45][0-9]{2}", c)), None)
    status = status or next((_NAMED_STATUSES[c] for c in told.codes if c in _NAMED_STATUSES), None)
    message = f"The server of {model!r} answered with an error: {told.words}"
    return _of_status(message, told, model, status=status)


@dataclass(frozen=True)
class Told:
    """What an error's body says.

    Attributes:
        words: The message, on one line.
        codes: Codes and types, as the server writes them.
        flagged: Whether it lists what a moderation found.
    """

    words: str
    codes: frozenset[str] = frozenset()
    flagged: bool = False


def read_told(body: object) -> Told:
    """Extract an error's message, wherever the server puts it.

    The usual form is `{"error": {"message": ...}}`. Some servers omit one of the levels, wrap it in
    a list, or answer with `{"detail": ...}`, plain text or an HTML page. A gateway's message is
    followed by that of the service behind it.
    """
    if isinstance(body, list) and len(body) == 1:
        return read_told(body[0])
    if isinstance(body, str):
        title = _TITLE.search(body)
        return Told(short(title.group(1) if title else _TAG.sub(" ", body)))
    if not isinstance(body, dict):
        return Told("" if body is None else short(json.dumps(body)))
    if isinstance(body.get("error"), dict):
        return read_told(body["error"])
    inner, metadata = body.get("innererror"), body.get("metadata")
    inner = inner if isinstance(inner, dict) else {}
    metadata = metadata if isinstance(metadata, dict) else {}
    codes = (body.get("code"), body.get("type"), inner.get("code"))
    found = [body[name] for name in ("message", "error", "detail", "msg") if body.get(name)]
    parts = [part if isinstance(part, str) else json.dumps(part) for part in found[:1] or [body]]
    if raw := metadata.get("raw"):
        parts.append(raw if isinstance(raw, str) else json.dumps(raw))
    return Told(
        words=short(": ".join(parts)),
        codes=frozenset(str(code) for code in codes if code),
        flagged="flagged_input" in metadata,
    )


def _from_status(error: Any, model: str, wait: float | None, missing_hint: str) -> ChatError:
    status = int(error.status_code)
    told = read_told(error.body)
    message = f"The server of {model!r} answered with status {status}: {told.words or 'no words'}"
    known: dict[str, Any] = {"status": status, "request_id": error.request_id, "retry_after": wait}
    if status == 404 and ("model_not_found" in told.codes or model in told.words):
        return ModelNotFoundError(
            message,
            fault="rejected",
            model=model,
            detail=told.words,
            hint=missing_hint or _STATUS_HINTS[404],
            **known,
        )
    return _of_status(message, told, model, **known)


def _of_status(
    message: str,
    told: Told,
    model: str,
    *,
    status: int | None,
    retry_after: float | None = None,
    **known: Any,
) -> ChatError:
    fault = _fault(status, told)
    hint = _STATUS_HINTS.get(status or 0, "") if fault == "rejected" else ""
    if retry_after is None and fault == "rate_limited":
        retry_after = _wait_in(told.words)
    known |= {"status": status, "retry_after": retry_after}
    return _build(fault, message, model, told.words, hint=hint, **known)


def _fault(status: int | None, told: Told) -> ChatFault:
    codes = {re.sub("[^a-z0-9]", "", code.lower()) for code in told.codes}
    if codes & _QUOTA_CODES or status == 402:
        return "quota"
    worded = status in {400, 403, 422} and _OF_MODERATION.search(told.words)
    if codes & _FILTER_CODES or told.flagged or worded:
        return "filtered"
    if status is None:
        return "malformed"
    if status in {408, 429}:
        return "timeout" if status == 408 else "rate_limited"
    # 499: a proxy aborted the call. 501: the call will never be supported.
    passing = status in {409, 499} or (status >= 500 and status != 501)
    return "server" if passing else "rejected"


def _build(
    fault: ChatFault, what: str, model: str, detail: str, *, hint: str = "", **known: Any
) -> ChatError:
    kinds = {"quota": QuotaError, "rate_limited": RateLimitedError}
    return kinds.get(fault, ChatError)(
        what,
        fault=fault,
        model=model,
        detail=short(detail),
        hint=hint or _HINTS.get(fault, ""),
        **known,
    )


def short(text: str, limit: int = 500) -> str:
    """The text on one line, truncated to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _wait_in(words: str) -> float | None:
    """Seconds to wait according to an error's message, for servers without the header."""
    found = _WAIT.search(words)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milli = found.groups()
    rest = float(seconds or 0) * (1e-3 if milli else 1.0)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + rest


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait according to the headers `retry-after-ms` or `retry-after`; None if unset."""
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
            # HTTP dates are in GMT; the older format does not say so.
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
