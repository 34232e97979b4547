"""What tokens cost, with the date at which it was looked up."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from lens_reasoner.types import Usage, Value

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Price(Value):
    """US dollars per million tokens.

    Attributes:
        input: Tokens read afresh.
        cached_input: Tokens read from the provider's cache.
        output: Tokens written.
    """

    input: float = Field(ge=0)
    cached_input: float = Field(ge=0)
    output: float = Field(ge=0)


class PriceTable(Value):
    """Prices by model name; a model that is not listed has an unknown cost, never zero.

    Attributes:
        date: When the prices were looked up.
        prices: By model name without snapshot date.
    """

    date: datetime.date
    prices: dict[str, Price]

    def with_prices(self, prices: Mapping[str, Price], *, date: datetime.date) -> PriceTable:
        """A table with `prices` added or replaced."""
        return PriceTable(date=date, prices={**self.prices, **prices})

    @classmethod
    def load(cls, path: str | Path) -> PriceTable:
        """Read a table from a JSON file."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def cost(self, model: str, usage: Usage) -> float | None:
        """Cost in US dollars of `usage`; None if the model or the tokens are unknown.

        A snapshot such as "gpt-4.1-mini-2025-04-14" costs what its model costs, unless it is
        listed itself. Where the server does not report cached tokens, all count as read afresh.
        """
        price = self.prices.get(model) or self.prices.get(_SNAPSHOT.sub("", model))
        if price is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        fresh = usage.input_tokens - cached
        dollars = fresh * price.input + cached * price.cached_input
        return (dollars + usage.output_tokens * price.output) / 1e6


def _price(fresh: float, cached_input: float, output: float) -> Price:
    return Price(input=fresh, cached_input=cached_input, output=output)


OPENAI_PRICES = PriceTable(
    date=datetime.date(2026, 11, 22),
    prices={
        "gpt-4.1": _price(2, 0.5, 8),
        "gpt-4.1-mini": _price(0.4, 0.1, 1.6),
        "gpt-5.5": _price(5, 0.5, 30),
        "gpt-5.6-luna": _price(0.2, 0.02, 1.2),
        "gpt-5.6-terra": _price(2, 0.2, 12),
        "gpt-5.6-sol": _price(4, 0.4, 20),
        "gpt-6-luna": _price(0.1, 0.01, 0.5),
        "gpt-6.1-terra": _price(1, 0.05, 5),
        "gpt-6.1-sol": _price(2, 0.1, 10),
        "gpt-6-astra": _price(10, 1, 50),
    },
)
"""Standard tier on api.openai.com; surcharges for very long inputs are not counted."""

NO_PRICES = PriceTable(date=datetime.date(2026, 11, 22), prices={})
"""For other servers, whose prices nobody told us."""
