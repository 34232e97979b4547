"""Parsing replies of the images protocol."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from lens_reasoner.errors import ImageFileError
from lens_reasoner.generators.image_prices import ImageTokens
from lens_reasoner.media import sniff
from lens_reasoner.openai_wire import Charged
from lens_reasoner.types import Usage

MOST_BYTES = 64 * 2**20
"""Maximum size of an image from a server, in bytes."""

Json = dict[str, Any]


@dataclass(frozen=True)
class WirePicture:
    """One entry of a reply.

    Attributes:
        base64: The image, base64-encoded; empty if there is a URL instead.
        url: URL of the image.
        blocked: Whether the server marks it as removed by its moderation.
    """

    base64: str = ""
    url: str = ""
    blocked: bool = False


@dataclass(frozen=True)
class ImagesReply:
    """A reply of the images protocol.

    Attributes:
        pictures: The images, in order.
        usage: Tokens, and the cost if the server states it.
        tokens: Tokens by kind, for the price.
        model: Name of the model, if the server states it.
    """

    pictures: tuple[WirePicture, ...]
    usage: Usage
    tokens: ImageTokens
    model: str = ""


def read_images(data: Json) -> ImagesReply:
    """Parse a reply.

    Raises:
        ValueError: The reply has another format.
    """
    entries = data.get("data")
    if not isinstance(entries, list):
        raise ValueError(f"the reply has no list 'data', but {sorted(data)}")
    usage, tokens = _usage(data.get("usage"))
    return ImagesReply(
        pictures=tuple(_picture(entry) for entry in entries),
        usage=usage,
        tokens=tokens,
        model=str(data.get("model") or ""),
    )


def _picture(entry: Any) -> WirePicture:
    if not isinstance(entry, dict):
        raise ValueError(f"an entry of 'data' is {type(entry).__name__}, not an object")
    return WirePicture(
        base64=_text(entry, "b64_json"),
        url=_text(entry, "url"),
        blocked=entry.get("respect_moderation") is False,
    )


def _text(entry: Json, name: str) -> str:
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name!r} is {type(value).__name__}, not text")
    return value or ""


def _usage(data: Any) -> tuple[Usage, ImageTokens]:
    if not isinstance(data, dict):
        return Usage(), ImageTokens()
    read, written = _count(data, "input_tokens"), _count(data, "output_tokens")
    usd = Charged.model_validate(data).usd
    if not read and not written:
        # Servers that do not count tokens omit them or say 0.
        return Usage(usd=usd), ImageTokens()
    details = data.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    tokens = ImageTokens(
        text_input=_count(details, "text_tokens"),
        image_input=_count(details, "image_tokens"),
        output=written,
    )
    return Usage(input_tokens=read, output_tokens=written, cached_tokens=0, usd=usd), tokens


def _count(data: Json, name: str) -> int | None:
    value = data.get(name)
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if known else None


def decode(text: str) -> bytes:
    """Decode base64 text or a `data:` URL.

    Raises:
        ImageFileError: It is not base64, or too long.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MOST_BYTES * 4 // 3 + 4:
        raise ImageFileError(f"The image is larger than {MOST_BYTES} bytes.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ImageFileError(f"The image is not base64: {error}.") from error


def check_picture(data: bytes) -> tuple[int, int]:
    """Decode an image completely and return its width and height.

    Raises:
        ImageFileError: The bytes are not a complete image in a supported format.
    """
    from PIL import Image

    if sniff(data) is None:
        raise ImageFileError(
            f"These {len(data)} bytes are not a PNG, JPEG, WebP or GIF image (they start with "
            f"{data[:24]!r})."
        )
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.size
    except Exception as error:  # Pillow's errors for damaged files are not documented
        raise ImageFileError(f"The image of {len(data)} bytes is damaged: {error}") from error


def shares(usage: Usage, count: int) -> list[Usage]:
    """Split a call's usage over its images; the shares add up exactly to the whole."""

    def part(total: int | None, index: int) -> int | None:
        return None if total is None else total * (index + 1) // count - total * index // count

    def tokens(index: int) -> dict[str, int | None]:
        names = ("input_tokens", "output_tokens", "cached_tokens")
        return {name: part(getattr(usage, name), index) for name in names}

    usd = None if usage.usd is None else usage.usd / count
    return [Usage(**tokens(index), usd=usd) for index in range(count)]
