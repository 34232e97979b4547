"""What the endpoints answer, for the OpenAPI description; the tests hold the server to it."""

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
"""Content of an answer of server-sent events; the schema is that of one."""

_OPEN = ("/healthz", "/readyz")
_SCHEMES = {"key": {"type": "http", "scheme": "bearer"}}


class _Answer(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ErrorDetail(_Answer):
    """What was wrong and what to do about it."""

    message: str
    """In words."""
    type: str
    """Kind of error."""
    param: str | None
    """The parameter it is about."""
    code: str | None
    """Short name for programs."""


class ErrorAnswer(_Answer):
    """An answer other than success."""

    error: ErrorDetail
    """The error."""


class Status(_Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "ready", "loading", "draining"]
    """In one word."""


class ModelAnswer(_Answer):
    """A model."""

    id: str
    """Its name."""
    object: Literal["model"]
    """Always the same."""
    created: int
    """Not known, and so 0."""
    owned_by: str
    """Always the same."""
    capabilities: Capabilities
    """What it can honour."""


class ModelList(_Answer):
    """All models."""

    object: Literal["list"]
    """Always the same."""
    data: list[ModelAnswer]
    """The models."""


class DrawnPicture(_Answer):
    """A picture of an answer, with everything that made it."""

    seed: Seed | None
    """Its seed; null if the generator takes none."""
    prompt: str
    """What it was drawn from."""
    settings: GenerationSettings
    """As they were used."""
    generator: str
    """Who drew it."""
    timings: dict[str, Seconds]
    """Seconds by stage."""
    usage: Usage
    """What it consumed."""
    recipe: JsonObject
    """What else it takes to make it again."""


class SentPicture(DrawnPicture):
    """A picture in the answer."""

    b64_json: str
    """The file, in base64."""


class KeptPicture(DrawnPicture):
    """A picture that is fetched by address."""

    url: str
    """Works for an hour."""


class ImagesAnswer(_Answer):
    """Answer of `/v1/images/...`."""

    created: int
    """When, in seconds since 1970."""
    model: str
    """Who drew."""
    output_format: Literal["png", "jpeg", "webp"]
    """Kind of picture file."""
    size: str
    """WIDTHxHEIGHT of the first, or auto where it is not known."""
    data: list[SentPicture | KeptPicture]
    """The pictures, in the order of their seeds."""


class RunAnswer(_Answer):
    """A run in a few words."""

    id: str
    """Its name."""
    object: Literal["run"]
    """Always the same."""
    created_at: int
    """When it was begun, in seconds since 1970."""
    status: RunStatus
    """How it stands."""
    request: ImageRequest
    """What was asked for."""
    limits: LoopLimits
    """When it ends."""
    events: int
    """How many are recorded."""
    error: ErrorDetail | None
    """Why it failed, if it did."""


class RunList(_Answer):
    """Runs, newest first."""

    object: Literal["list"]
    """Always the same."""
    data: list[RunAnswer]
    """The runs."""


class Judgement(_Answer):
    """Answer of `/v1/judgements`."""

    rubric: Rubric
    """By what the picture was judged."""
    verdict: Verdict
    """How it did."""


def answers(
    *errors: int, model: Any = None, content: Mapping[str, Any] | None = None, open_: bool = False
) -> Responses:
    """What an endpoint may answer, for its decorator.

    Args:
        errors: Statuses of its own; those that the guard gives are added.
        model: Type of its success, where the decorator does not say it.
        content: More content types of its success.
        open_: Whether it needs no key.
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
    """Correct what FastAPI says of every endpoint: its answer 422, and who may ask.

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
            # FastAPI takes them for answers in the type of the endpoint's success.
            response["content"] = {"application/json": next(iter(response["content"].values()))}
