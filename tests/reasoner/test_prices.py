"""What calls cost: dated, replaceable, and unknown rather than wrong."""

import datetime
import json

import pytest

from lens_reasoner import (
    OPENAI_PRICES,
    OpenAIChat,
    OpenAIDecisions,
    Price,
    PriceTable,
    PriceTableError,
    Usage,
)

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cached_tokens=500_000)
SMALL = Usage(input_tokens=1000, output_tokens=100, cached_tokens=400)
OWN = {"mine": {"input": 1, "cached_input": 0.5, "output": 4}}


def test_the_built_in_table_says_when_and_where_it_was_looked_up() -> None:
    assert OPENAI_PRICES.date == datetime.date(2026, 11, 22)
    assert "developers.openai.com" in OPENAI_PRICES.source
    assert OPENAI_PRICES.cost("gpt-4.1-mini", MILLION) == pytest.approx(0.2 + 0.05 + 1.6)
    assert OPENAI_PRICES.cost("gpt-6-luna", MILLION) == pytest.approx(0.05 + 0.005 + 0.5)
    for model in ("gpt-5.5", "gpt-4.1", "gpt-4.1-mini-2025-04-14"):
        assert OPENAI_PRICES.cost(model, SMALL) > 0


def test_an_unknown_cost_is_none_and_never_zero() -> None:
    assert OPENAI_PRICES.cost("somebody-else", SMALL) is None
    assert OPENAI_PRICES.cost("gpt-4.1", Usage(output_tokens=1)) is None
    # Beyond 272,000 tokens of input another price holds.
    assert OPENAI_PRICES.cost("gpt-5.5", MILLION) is None


def _cost(**options) -> float | None:
    chat = OpenAIChat("mine", api_key="sk-0123456789", **options)
    return chat._connection.cost("mine", SMALL).usd


def test_users_bring_prices_of_their_own(tmp_path, monkeypatch) -> None:
    expected = pytest.approx((600 * 1 + 400 * 0.5 + 100 * 4) / 1e6)
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"date": "2026-12-01", "prices": OWN}))
    assert _cost() is None
    assert _cost(prices=OWN) == expected
    assert _cost(prices=str(path)) == expected
    assert _cost(prices=PriceTable.load(path)) == expected
    monkeypatch.setenv("LENS_PRICES", str(path))
    assert _cost() == expected
    chat = OpenAIChat("gpt-4.1", api_key="sk-0123456789")
    assert chat._connection.prices.date == datetime.date(2026, 12, 1)
    assert chat._connection.cost("gpt-4.1", SMALL).usd > 0
    # OpenAI's prices, the user's included, say nothing about other servers.
    assert _cost(base_url="http://localhost/v1") is None


def test_the_users_price_replaces_the_built_in_one(tmp_path) -> None:
    table = OPENAI_PRICES.with_prices(
        {"gpt-4.1": Price(input=9, cached_input=9, output=9)}, date=datetime.date(2027, 1, 1)
    )
    assert table.cost("gpt-4.1", SMALL) == pytest.approx(1100 * 9 / 1e6)
    assert table.cost("gpt-4.1-mini", SMALL) == OPENAI_PRICES.cost("gpt-4.1-mini", SMALL)


@pytest.mark.parametrize(
    "prices", [{"mine": {"input": -1}}, {"mine": 3}, "/no/such/file.json"], ids=str
)
def test_unreadable_prices_are_refused_with_the_form_they_should_have(prices) -> None:
    with pytest.raises(PriceTableError, match="cached_input"):
        _cost(prices=prices)


def test_decisions_have_prices_of_their_own() -> None:
    connection = OpenAIDecisions(api_key="sk-0123456789")._connection
    assert connection.cost("gpt-6-luna", SMALL).usd == pytest.approx(1000 * 0.1 / 1e6)
    own = OpenAIDecisions("mine", api_key="sk-0123456789", prices=OWN)._connection
    assert own.cost("mine", SMALL).usd > 0
