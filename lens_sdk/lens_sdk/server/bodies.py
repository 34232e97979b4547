"""Request bodies as pydantic types; unknown fields are refused, never ignored."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator
from pydantic_core import PydanticSerializationError

from lens_reasoner import ImageRequest, LoopLimits, Rubric
from lens_reasoner.types import Seed
from lens_sdk.server.errors import ApiError


class Body(BaseModel):
    """Base of the request bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def fingerprint(self) -> str:
        """A hash that is the same for equal bodies.

        Raises:
            ApiError: The body contains text that is not valid Unicode.
        """
        try:
            return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise ApiError.bad_request("The body holds text that is not valid Unicode.") from error


class ImagesBody(Body):
    """Body of `POST /v1/images/generations`: OpenAI's fields and some additional ones.

    OpenAI fields and values that this server cannot honour are refused.
    """

    prompt: str = Field(min_length=1)
    """The prompt, used unchanged."""
    model: str | None = None
    """Name of the server's model; other names are refused."""
    n: int | None = Field(default=None, ge=1)
    """Number of images; 1 by default."""
    size: str | None = Field(default=None, pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")
    """WIDTHxHEIGHT in pixels, or auto for the model's default."""
    response_format: Literal["b64_json", "url"] | None = None
    """Images in the answer, or URLs that work for an hour; b64_json by default."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    """Image file format; png by default."""
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of JPEG and WebP files; 100 by default."""
    stream: bool | None = None
    """Whether to answer with server-sent events."""
    partial_images: int | None = Field(default=None, ge=0, le=3)
    """Number of previews to stream before each finished image."""
    quality: Literal["auto", "standard"] | None = None
    """Only one quality exists; set num_inference_steps instead."""
    background: Literal["auto", "opaque"] | None = None
    """Images are always opaque."""
    moderation: Literal["auto", "low"] | None = None
    """Has no effect."""
    user: str | None = None
    """Has no effect."""
    safety_identifier: str | None = None
    """Has no effect."""
    seed: Seed | None = None
    """Seed of the first image; the others count up from it. Chosen and reported if not given."""
    num_inference_steps: int | None = Field(default=None, ge=1)
    """Number of sampler steps; the model's default if not given."""
    guidance_scale: float | None = Field(default=None, ge=1, le=100)
    """Guidance scale; 1 turns guidance off. The model's default if not given."""
    negative_prompt: str = ""
    """What the image should not show."""
    solver: str | None = None
    """Lens only: `euler`, `dpmpp_2m` or `ab2`; euler by default."""
    shift: float | None = Field(default=None, gt=0)
    """Lens only: time shift of the noise levels; by default, it depends on size and steps."""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what the image should show")
        return prompt

    @property
    def width_and_height(self) -> tuple[int | None, int | None]:
        """The size in pixels; None leaves it to the model."""
        if self.size is None or self.size == "auto":
            return None, None
        width, _, height = self.size.partition("x")
        return int(width), int(height)

    @property
    def extra(self) -> dict[str, JsonValue]:
        """Generator-specific settings."""
        told: dict[str, JsonValue] = {"solver": self.solver, "shift": self.shift}
        return {name: value for name, value in told.items() if value is not None}


class EditsBody(ImagesBody):
    """Body of `POST /v1/images/edits`: the form's fields other than image and mask."""

    strength: float | None = Field(default=None, gt=0, le=1)
    """How far to depart from the image, above 0 and at most 1; the model's default if not given."""
    mask_feather: int | None = Field(default=None, ge=0, le=256)
    """Pixels of transition outside the mask from new to old; the model's default if not given."""

    @property
    def extra(self) -> dict[str, JsonValue]:
        """See `ImagesBody.extra`."""
        told = {"strength": self.strength, "mask_feather": self.mask_feather}
        return super().extra | {name: value for name, value in told.items() if value is not None}


class RunBody(Body):
    """Body of `POST /v1/runs`."""

    request: ImageRequest | str
    """What to generate, in the user's words."""
    limits: LoopLimits = LoopLimits()
    """When the run ends."""
    rubric: Rubric | None = None
    """Criteria; written by the server if not given."""

    @property
    def image_request(self) -> ImageRequest:
        """The request as an `ImageRequest`."""
        return as_request(self.request)


class RewriteBody(Body):
    """Body of `POST /v1/rewrites`."""

    request: ImageRequest | str
    """The request to rewrite."""


class JudgementBody(Body):
    """Body of `POST /v1/judgements`."""

    image: str
    """A PNG, JPEG or WebP file, base64-encoded."""
    request: ImageRequest | str
    """What the image should show."""
    rubric: Rubric | None = None
    """Criteria; written by the server if not given."""


def as_request(request: ImageRequest | str) -> ImageRequest:
    """The request as an `ImageRequest`.

    Raises:
        ApiError: The request is empty.
    """
    if not isinstance(request, str):
        return request
    if not request.strip():
        raise ApiError.bad_request(
            "The request is empty; say what the image should show.", param="request"
        )
    return ImageRequest(text=request)
