"""Token prices, with the date when they were looked up."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lens_reasoner.errors import PriceTableError
from lens_reasoner.text_files import read_text
from lens_reasoner.types import Usage, Value

PRICES_VARIABLE = "LENS_PRICES"
"""Environment variable that names a JSON file with the user's own prices."""

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Price(Value):
    """US dollars per million tokens.

    Attributes:
        input: Uncached input tokens.
        cached_input: Input tokens served from the provider's cache.
        output: Output tokens.
        up_to: Longest input, in tokens, that these prices apply to; a longer one has an unknown
            cost.
    """

    input: float = Field(ge=0)
    cached_input: float = Field(ge=0)
    output: float = Field(ge=0)
    up_to: int | None = Field(default=None, ge=1)


class PriceTable(Value):
    """Prices by model name; the cost of an unlisted model is unknown, never 0.

    Attributes:
        date: When the prices were looked up.
        prices: Prices by model name, without a snapshot date.
        source: Where they were looked up.
    """

    date: datetime.date
    prices: dict[str, Price]
    source: str = ""

    def with_prices(self, prices: Mapping[str, Price], *, date: datetime.date) -> PriceTable:
        """Return a table with `prices` added or replaced."""
        return self.model_copy(update={"date": date, "prices": {**self.prices, **prices}})

    @classmethod
    def load(cls, path: str | Path) -> PriceTable:
        """Read a table from a JSON file.

        Raises:
            PriceTableError: There is no such file, or it is not a price table.
        """
        try:
            return cls.model_validate_json(read_text(path))
        except (OSError, ValueError) as error:
            raise _unreadable(str(path), error) from error

    def of(self, model: str) -> Price | None:
        """The price of a model or of the model it is a snapshot of; None if unlisted."""
        return self.prices.get(model) or self.prices.get(without_snapshot(model))

    def cost(self, model: str, usage: Usage) -> float | None:
        """Cost in US dollars of `usage`; None if the model or the tokens are unknown.

        A snapshot such as "gpt-4.1-mini-2025-04-14" has the price of its model, unless it is listed
        itself. If the server does not report cached tokens, all count as uncached.
        """
        price = self.of(model)
        if price is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        if price.up_to is not None and usage.input_tokens > price.up_to:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        fresh = usage.input_tokens - cached
        dollars = fresh * price.input + cached * price.cached_input
        return (dollars + usage.output_tokens * price.output) / 1e6


PriceSource = PriceTable | Mapping[str, Price | Mapping[str, float]] | str | Path
"""A table, a mapping from models to prices, or the path of a JSON file with a table."""


def price_table(source: PriceSource) -> PriceTable:
    """Convert to a price table; prices without a date count as looked up today.

    Raises:
        PriceTableError: It cannot be read.
    """
    if isinstance(source, PriceTable):
        return source
    if isinstance(source, str | Path):
        return PriceTable.load(source)
    today = datetime.date.today()
    fields: dict[str, Any] = {"date": today, "prices": dict(source), "source": "the caller"}
    try:
        return PriceTable.model_validate(fields)
    except ValidationError as error:
        raise _unreadable("the prices given", error) from error


def openai_prices() -> PriceTable:
    """`OPENAI_PRICES`, overridden by the prices in the file that `LENS_PRICES` names.

    Raises:
        PriceTableError: That file cannot be read.
    """
    path = os.environ.get(PRICES_VARIABLE)
    if not path:
        return OPENAI_PRICES
    own = PriceTable.load(path)
    return OPENAI_PRICES.with_prices(own.prices, date=own.date)


def without_snapshot(model: str) -> str:
    """The model's name without a snapshot date."""
    return _SNAPSHOT.sub("", model)


def _unreadable(what: str, error: Exception) -> PriceTableError:
    return PriceTableError(
        f"{what} cannot be read as prices: {error}",
        hint='The format is {"date": "2026-11-22", "prices": {"MODEL": {"input": 1, '
        '"cached_input": 0.1, "output": 4}}}, in US dollars per million tokens.',
    )


def _price(fresh: float, cached_input: float, output: float, *, up_to: int | None = None) -> Price:
    return Price(input=fresh, cached_input=cached_input, output=output, up_to=up_to)


OPENAI_PRICES = PriceTable(
    date=datetime.date(2026, 11, 22),
    source="developers.openai.com/api/docs/pricing, as listed by litellm 1.109.1",
    prices={
        "gpt-4.1": _price(2, 0.5, 8),
        "gpt-4.1-mini": _price(0.4, 0.1, 1.6),
        "gpt-5.5": _price(5, 0.5, 30, up_to=272_000),
        "gpt-5.6-luna": _price(0.2, 0.02, 1.2),
        "gpt-5.6-terra": _price(2, 0.2, 12),
        "gpt-5.6-sol": _price(4, 0.4, 20),
        "gpt-6-luna": _price(0.1, 0.01, 0.5),
        "gpt-6.1-terra": _price(1, 0.05, 5),
        "gpt-6.1-sol": _price(2, 0.1, 10),
        "gpt-6-astra": _price(10, 1, 50),
    },
)
"""Standard tier of api.openai.com."""

DECISION_PRICES = PriceTable(
    date=datetime.date(2026, 11, 22),
    source="public beta of POST /v1/decisions, October 2026: output is free",
    prices={"gpt-6-luna": _price(0.1, 0.1, 0)},
)
"""Prices of the decisions endpoint; no discount for cached input has been announced."""

NO_PRICES = PriceTable(date=datetime.date(2026, 11, 22), prices={})
"""For other servers, whose prices are unknown."""
