"""The form in which a language model is shown an image, and what that costs."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_reasoner.chat import ImageDetail, ImagePart
from lens_reasoner.image import GeneratedImage
from lens_reasoner.prices import OPENAI_PRICES, PriceTable, without_snapshot
from lens_reasoner.types import Usage
from lens_reasoner.verdict import View

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Shown:
    """An image ready to be put into a message."""

    part: ImagePart
    view: View


@dataclass(frozen=True)
class ImageCost:
    """Predicted cost of showing an image; unknown is None, never 0.

    Attributes:
        tokens: Input tokens of the image.
        usd: Their price in US dollars, uncached; the text of the message is not included.
    """

    tokens: int | None
    usd: float | None


def show(image: GeneratedImage, *, max_side: int | None, detail: ImageDetail) -> Shown:
    """Prepare an image for a message, scaled down if necessary.

    Args:
        image: The image; its own bytes are sent unless it has to be scaled.
        max_side: Longest side in pixels; larger images are scaled down (Lanczos).
        detail: Level of detail at which the model looks.
    """
    picture = image.image
    if max_side is None or max(picture.size) <= max_side:
        width, height = picture.size
        return Shown(
            ImagePart(image.data, image.media_type, detail),
            View(width=width, height=height, detail=detail),
        )
    from PIL import Image

    width, height = _fit(picture.width, picture.height, max_side)
    picture = opaque(picture)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, format="PNG")
    return Shown(
        ImagePart(buffer.getvalue(), detail=detail), View(width=width, height=height, detail=detail)
    )


def opaque(picture: Image.Image) -> Image.Image:
    """The image as RGB or greyscale, on white where it is transparent."""
    from PIL import Image

    if not picture.has_transparency_data:
        return picture if picture.mode in {"RGB", "L"} else picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _fit(width: int, height: int, max_side: int) -> tuple[int, int]:
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_cost(model: str, view: View, *, prices: PriceTable = OPENAI_PRICES) -> ImageCost:
    """Predict what it costs to show an image to a model, if its token rule is known.

    Args:
        model: The model's name, with or without a snapshot date.
        view: Size and detail.
        prices: Token prices.
    """
    tokens = image_tokens(model, view)
    if tokens is None:
        return ImageCost(None, None)
    usage = Usage(input_tokens=tokens, output_tokens=0, cached_tokens=0)
    return ImageCost(tokens, prices.cost(model, usage))


def image_tokens(model: str, view: View) -> int | None:
    """Input tokens of an image; None if the model's rule is unknown.

    gpt-4.1-mini counts patches of 32 x 32 pixels, at most 1536, times 1.62. gpt-4.1 counts tiles of
    512 x 512 pixels after scaling the image to fit 2048 pixels and its shorter side to 768. Both
    rules are from OpenAI's documentation; what a call really consumed is in `Verdict.usage`.
    """
    name = without_snapshot(model)
    if name == "gpt-4.1-mini" and view.detail == "high":
        return round(1.62 * _patches(view.width, view.height, most=1536))
    if name == "gpt-4.1" and view.detail != "auto":
        return 85 if view.detail == "low" else 85 + 170 * _tiles(view.width, view.height)
    return None


def _patches(width: int, height: int, *, most: int) -> int:
    across, down = math.ceil(width / 32), math.ceil(height / 32)
    if across * down <= most:
        return across * down
    shrink = math.sqrt(32 * 32 * most / (width * height))
    wide, high = width * shrink / 32, height * shrink / 32
    shrink *= min(math.floor(wide) / wide, math.floor(high) / high)
    # Rounding can leave a whole number slightly too large.
    across, down = (math.ceil(side * shrink / 32 - 1e-9) for side in (width, height))
    return across * down


def _tiles(width: int, height: int) -> int:
    fit = min(1.0, 2048 / max(width, height))
    wide, high = width * fit, height * fit
    shrink = min(1.0, 768 / min(wide, high))
    return math.ceil(wide * shrink / 512 - 1e-9) * math.ceil(high * shrink / 512 - 1e-9)
