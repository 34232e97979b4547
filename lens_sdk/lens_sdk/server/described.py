"""Answers of the endpoints, for the OpenAPI description; tests check the server against it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from lens_reasoner import (
    Capabilities,
    GenerationSettings,
    ImageRequest,
    LoopLimits,
    Rubric,
    Usage,
    Verdict,
)
from lens_reasoner.types import JsonObject, Seconds, Seed

if TYPE_CHECKING:
    from fastapi import FastAPI

RunStatus = Literal["running", "finished", "cancelled", "failed", "interrupted"]

Responses = dict[int | str, dict[str, Any]]

EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
        }
    }
}
"""Content of an answer that consists of server-sent events; the schema describes one event."""

_OPEN = ("/healthz", "/readyz")
_SCHEMES = {"key": {"type": "http", "scheme": "bearer"}}


class _Answer(BaseModel):
    """Base of the answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ErrorDetail(_Answer):
    """What went wrong and what to do about it."""

    message: str
    """Message for people."""
    type: str
    """Kind of error."""
    param: str | None
    """Name of the parameter that caused the error."""
    code: str | None
    """Error code for programs."""


class ErrorAnswer(_Answer):
    """An unsuccessful answer."""

    error: ErrorDetail
    """The error."""


class Status(_Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "ready", "loading", "draining"]
    """State of the server."""


class ModelAnswer(_Answer):
    """A model."""

    id: str
    """Name of the model."""
    object: Literal["model"]
    """Always "model"."""
    created: int
    """Always 0, since the time is not known."""
    owned_by: str
    """Always "lens"."""
    capabilities: Capabilities
    """What the model supports."""


class ModelList(_Answer):
    """The server's models."""

    object: Literal["list"]
    """Always "list"."""
    data: list[ModelAnswer]
    """The models."""


class DrawnPicture(_Answer):
    """A generated image, with everything needed to reproduce it."""

    seed: Seed | None
    """The seed; null if the generator does not take seeds."""
    prompt: str
    """The prompt that was used."""
    settings: GenerationSettings
    """The settings that were used."""
    generator: str
    """Name of the generator."""
    timings: dict[str, Seconds]
    """Seconds per stage."""
    usage: Usage
    """Tokens and cost."""
    recipe: JsonObject
    """What else is needed to reproduce the image."""


class SentPicture(DrawnPicture):
    """An image contained in the answer."""

    b64_json: str
    """The image file, base64-encoded."""


class KeptPicture(DrawnPicture):
    """An image to download from a URL."""

    url: str
    """URL of the image; works for an hour."""


class ImagesAnswer(_Answer):
    """Answer of `/v1/images/...`."""

    created: int
    """Time of creation, in seconds since 1970."""
    model: str
    """Name of the model."""
    output_format: Literal["png", "jpeg", "webp"]
    """Image file format."""
    size: str
    """WIDTHxHEIGHT of the first image, or auto if unknown."""
    data: list[SentPicture | KeptPicture]
    """The images, in the order of their seeds."""


class RunAnswer(_Answer):
    """Summary of a run."""

    id: str
    """ID of the run."""
    object: Literal["run"]
    """Always "run"."""
    created_at: int
    """Start time, in seconds since 1970."""
    status: RunStatus
    """Whether the run is in progress, or how it ended."""
    request: ImageRequest
    """The request."""
    limits: LoopLimits
    """When the run ends."""
    events: int
    """Number of recorded events."""
    error: ErrorDetail | None
    """Why the run failed, if it did."""


class RunList(_Answer):
    """Runs, newest first."""

    object: Literal["list"]
    """Always "list"."""
    data: list[RunAnswer]
    """The runs."""


class Judgement(_Answer):
    """Answer of `/v1/judgements`."""

    rubric: Rubric
    """The criteria the image was judged by."""
    verdict: Verdict
    """The judge's answers."""


def answers(
    *errors: int, model: Any = None, content: Mapping[str, Any] | None = None, open_: bool = False
) -> Responses:
    """An endpoint's possible answers, for its decorator.

    Args:
        errors: The endpoint's own error statuses; those of the guard are added.
        model: Type of the successful answer, if the decorator does not give it.
        content: Additional content types of the successful answer.
        open_: Whether the endpoint works without a key.
    """
    guard = {403, 413, 500} if open_ else {401, 403, 413, 500}
    found: Responses = {
        status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}
        for status in sorted(guard | set(errors))
    }
    success: dict[str, Any] = {}
    if model is not None:
        success["model"] = model
    if content is not None:
        success["content"] = dict(content)
    return found | ({200: success} if success else {})


def describe(app: FastAPI, *, with_keys: bool) -> None:
    """Correct FastAPI's description of every endpoint: the 422 answer and whether a key is needed.

    Args:
        app: The application.
        with_keys: Whether callers need a key.
    """
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = plain()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _without_fastapi_errors(operation["responses"])
                if with_keys and path not in _OPEN:
                    operation["security"] = [{name: []} for name in _SCHEMES]
        parts = schema["components"]
        for unused in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(unused, None)
        if with_keys:
            parts["securitySchemes"] = _SCHEMES
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _without_fastapi_errors(responses: dict[str, Any]) -> None:
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if content.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
        del responses["422"]
    for status, response in responses.items():
        if int(status) >= 400:
            # FastAPI would describe errors with the type of the endpoint's successful answer.
            response["content"] = {"application/json": next(iter(response["content"].values()))}
