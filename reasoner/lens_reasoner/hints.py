"""What a rewriter is given besides the request."""

from __future__ import annotations

from math import gcd

from pydantic import Field, JsonValue

from lens_reasoner.types import ImageRequest, Value


class RewriteHints(Value):
    """Circumstances that a prompt should suit; unknown ones are left out.

    Attributes:
        token_limit: Number of prompt tokens that the generator reads before it truncates.
        style: A style for every image, such as "watercolour"; a style in the request takes
            precedence.
    """

    token_limit: int | None = Field(default=None, ge=1)
    style: str = ""


def material(request: ImageRequest, hints: RewriteHints) -> dict[str, JsonValue]:
    """The request and its circumstances, as the JSON object a model is given."""
    known: dict[str, JsonValue] = {
        "request": request.text,
        "avoid": request.negative_prompt,
        "aspect_ratio": _aspect_ratio(request),
        "style": hints.style,
        "token_limit": hints.token_limit,
    }
    return {name: value for name, value in known.items() if value}


def _aspect_ratio(request: ImageRequest) -> str:
    """The request's width to height, in lowest terms; empty if unspecified."""
    if request.aspect_ratio is not None:
        return request.aspect_ratio
    if request.width is None or request.height is None:
        return ""
    common = gcd(request.width, request.height)
    return f"{request.width // common}:{request.height // common}"
