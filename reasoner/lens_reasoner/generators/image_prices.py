"""Image prices of paid services, with the date when they were looked up."""

from __future__ import annotations

import datetime

from pydantic import Field

from lens_reasoner.prices import without_snapshot
from lens_reasoner.types import Value


class ImageTokens(Value):
    """Tokens of one call; None if the server did not say.

    Attributes:
        text_input: Tokens of the prompt.
        image_input: Tokens of images in the request.
        output: Tokens of the generated images.
    """

    text_input: int | None = Field(default=None, ge=0)
    image_input: int | None = Field(default=None, ge=0)
    output: int | None = Field(default=None, ge=0)


class ImagePrice(Value):
    """US dollars per million tokens; see `ImageTokens`."""

    text_input: float = Field(ge=0)
    image_input: float = Field(ge=0)
    output: float = Field(ge=0)


class ImagePriceTable(Value):
    """Prices by model name; the cost of an unlisted model is unknown, never 0.

    Attributes:
        date: When the prices were looked up.
        prices: Prices by model name, without a snapshot date.
        source: Where they were looked up.
    """

    date: datetime.date
    prices: dict[str, ImagePrice]
    source: str = ""

    def cost(self, model: str, tokens: ImageTokens) -> float | None:
        """Cost of one call in US dollars; None if the price or a number of tokens is unknown."""
        price = self.prices.get(model) or self.prices.get(without_snapshot(model))
        parts = (tokens.text_input, tokens.image_input, tokens.output)
        if price is None or None in parts:
            return None
        rates = (price.text_input, price.image_input, price.output)
        return sum(n * rate for n, rate in zip(parts, rates, strict=True) if n) / 1e6


OPENAI_IMAGE_PRICES = ImagePriceTable(
    date=datetime.date(2026, 11, 22),
    source="developers.openai.com/api/docs/pricing, as listed by litellm 1.109.1",
    prices={"gpt-image-2": ImagePrice(text_input=5, image_input=8, output=30)},
)
"""Standard tier on api.openai.com."""

NO_IMAGE_PRICES = ImagePriceTable(date=datetime.date(2026, 11, 22), prices={})
"""For other servers, whose prices are unknown."""
