"""What the endpoints are sent, as pydantic types; unknown fields are refused, never ignored."""

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
        """Tells equal bodies from others.

        Raises:
            ApiError: It holds text that is not Unicode.
        """
        try:
            return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise ApiError.bad_request("The body holds text that is not valid Unicode.") from error


class ImagesBody(Body):
    """`POST /v1/images/generations`, as OpenAI has it and with fields of our own.

    What OpenAI offers beyond this and cannot be honoured here is refused.
    """

    prompt: str = Field(min_length=1)
    """What to draw; it is not rewritten."""
    model: str | None = None
    """The server's model; nothing else is known."""
    n: int | None = Field(default=None, ge=1)
    """Number of pictures; 1 by default."""
    size: str | None = Field(default=None, pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")
    """WIDTHxHEIGHT in pixels, or auto for the model's own."""
    response_format: Literal["b64_json", "url"] | None = None
    """Pictures in the answer, or addresses that work for an hour; b64_json by default."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    """Kind of picture file; png by default."""
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of jpeg and webp; 100 by default."""
    stream: bool | None = None
    """Answer with events."""
    partial_images: int | None = Field(default=None, ge=0, le=3)
    """Unfinished pictures to stream before each finished one."""
    quality: Literal["auto", "standard"] | None = None
    """There is only one; set num_inference_steps instead."""
    background: Literal["auto", "opaque"] | None = None
    """Pictures are opaque."""
    moderation: Literal["auto", "low"] | None = None
    """Has no effect."""
    user: str | None = None
    """Has no effect."""
    safety_identifier: str | None = None
    """Has no effect."""
    seed: Seed | None = None
    """Seed of the first picture, the others follow; drawn and told if left out."""
    num_inference_steps: int | None = Field(default=None, ge=1)
    """Sampler steps; the model's own by default."""
    guidance_scale: float | None = Field(default=None, ge=1, le=100)
    """Guidance; 1 is none. The model's own by default."""
    negative_prompt: str = ""
    """What should not be in the picture."""
    solver: str | None = None
    """Lens only: `euler`, `dpmpp_2m` or `ab2`; euler by default."""
    shift: float | None = Field(default=None, gt=0)
    """Lens only: time shift of the noise levels; by default from size and steps."""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what the picture should show")
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
        """Settings that only some generators know."""
        told: dict[str, JsonValue] = {"solver": self.solver, "shift": self.shift}
        return {name: value for name, value in told.items() if value is not None}


class EditsBody(ImagesBody):
    """`POST /v1/images/edits`: the fields of the form beside the picture and the mask."""

    strength: float | None = Field(default=None, gt=0, le=1)
    """How far from the picture; the model's own by default."""
    mask_feather: int | None = Field(default=None, ge=0, le=256)
    """Pixels outside the mask over which new and old mix; the model's own by default."""

    @property
    def extra(self) -> dict[str, JsonValue]:
        """See `ImagesBody.extra`."""
        told = {"strength": self.strength, "mask_feather": self.mask_feather}
        return super().extra | {name: value for name, value in told.items() if value is not None}


class RunBody(Body):
    """`POST /v1/runs`."""

    request: ImageRequest | str
    """What to draw, in the user's words."""
    limits: LoopLimits = LoopLimits()
    """When the run ends."""
    rubric: Rubric | None = None
    """Criteria; written by the server's judge if left out."""

    @property
    def image_request(self) -> ImageRequest:
        """The request in full."""
        return as_request(self.request)


class RewriteBody(Body):
    """`POST /v1/rewrites`."""

    request: ImageRequest | str
    """What to rewrite."""


class JudgementBody(Body):
    """`POST /v1/judgements`."""

    image: str
    """A PNG, JPEG or WebP file in base64."""
    request: ImageRequest | str
    """What the picture was to show."""
    rubric: Rubric | None = None
    """Criteria; written by the server if left out."""


def as_request(request: ImageRequest | str) -> ImageRequest:
    """A request in full.

    Raises:
        ApiError: It says nothing.
    """
    if not isinstance(request, str):
        return request
    if not request.strip():
        raise ApiError.bad_request(
            "The request is empty; say what the picture should show.", param="request"
        )
    return ImageRequest(text=request)
