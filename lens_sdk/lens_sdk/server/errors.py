"""Errors in OpenAI's format: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lens_core.errors import ParameterError, PromptError
from lens_reasoner import ReasonerError
from lens_reasoner.errors import (
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageFileError,
    ImageServiceError,
    JudgeError,
    LoopConfigError,
    QuotaError,
    RateLimitedError,
    RunRecordError,
    UnsupportedSettingError,
)

BAD_REQUEST = "invalid_request_error"


class ApiError(Exception):
    """An unsuccessful answer.

    Attributes:
        status: HTTP status.
        message: What went wrong and what to do about it.
        kind: The error's `type`.
        code: Error code for programs; may be None.
        param: Name of the parameter that caused the error; may be None.
        retry_after: Seconds to wait before retrying; None if unknown.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = BAD_REQUEST,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @classmethod
    def bad_request(
        cls, message: str, *, param: str | None = None, code: str | None = None
    ) -> ApiError:
        """An error for a request that cannot succeed unchanged."""
        return cls(400, message, param=param, code=code or "invalid_value")

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}


def api_error(error: Exception) -> ApiError:
    """The answer to a raised error; messages of unknown errors are not passed on to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return invalid(error.errors(include_url=False, include_context=False))
    if isinstance(error, ReasonerError):
        return _known(error)
    return ApiError(
        500, "The server failed; its log says why.", kind="server_error", code="internal_error"
    )


def invalid(details: Sequence[Mapping[str, Any]]) -> ApiError:
    """The answer to a body that does not match its schema.

    Args:
        details: Pydantic's error descriptions.
    """
    # A request may also be a plain string, so "not a string" says nothing about an object.
    details = [one for one in details if one["loc"][-1:] != ("str",)] or details
    first = details[0]
    parts = [str(part) for part in first["loc"] if part != "body"]
    place = [part for part in parts if not part.startswith("function-")]
    param = ".".join(place) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "There is no such parameter here"
    if not place and first["type"] == "model_attributes_type":
        message = "Send a JSON object, with 'content-type: application/json'"
    where = f"{param}: " if param else ""
    more = f" ({len(details) - 1} more)" if len(details) > 1 else ""
    known = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    code = known.get(str(first["type"]), "invalid_value")
    return ApiError.bad_request(f"{where}{message}.{more}", param=param, code=code)


def _known(error: ReasonerError) -> ApiError:
    message = str(error)
    if isinstance(error, UnsupportedSettingError):
        return ApiError.bad_request(message, param=error.setting, code="unsupported_value")
    if isinstance(error, GenerationRefusedError):
        return ApiError.bad_request(message, code="moderation_blocked")
    if isinstance(error, ImageFileError):
        return ApiError.bad_request(message, param="image", code="invalid_image")
    if isinstance(error, LoopConfigError):
        return ApiError.bad_request(message, code="not_configured")
    if isinstance(error, JudgeError):
        return ApiError(422, message, code="not_judged")
    if isinstance(error, RunRecordError):
        return ApiError(409, message, code="run_conflict")
    if isinstance(error, RateLimitedError | QuotaError):
        return ApiError(
            503,
            message,
            kind="server_error",
            code="provider_busy",
            retry_after=error.retry_after or 10,
        )
    if isinstance(error, ChatError | ImageServiceError):
        return ApiError(502, message, kind="server_error", code="provider_failed")
    if isinstance(error, GeneratorError) and isinstance(
        error.__cause__, ParameterError | PromptError
    ):
        return ApiError.bad_request(message)
    return ApiError(500, message, kind="server_error", code="generator_failed")
