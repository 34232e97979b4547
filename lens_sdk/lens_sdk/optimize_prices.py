"""Estimates what the parts of a prompt study cost, before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lens_prompt_opt import Budget, UnitPrices, UnknownCostError
from lens_reasoner import (
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    Generator,
    StepCallback,
    Usage,
)
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.openai_connection import OFFICIAL_URL, is_official
from lens_reasoner.parts import fingerprint
from lens_reasoner.prices import NO_PRICES, PriceTable, openai_prices, price_table
from lens_reasoner.settings import rules_of

REWRITE_TOKENS = (1500, 500)
"""Tokens read and written per rewrite with a typical system prompt, including reasoning."""

JUDGE_TOKENS = (1800, 500)
"""Tokens per judgement: a one-megapixel image and six criteria, each with evidence."""


class PricedGenerator:
    """A generator with a price per image that it does not state itself.

    For your own servers: 0 if they are paid for anyway, or your estimate of the cost per image.
    """

    def __init__(self, generator: Generator, usd: float) -> None:
        """Set the price.

        Args:
            generator: The generator.
            usd: US dollars per image; used only if the generator's own cost is unknown.
        """
        self._generator = generator
        self._usd = usd

    @property
    def name(self) -> str:
        """See `Generator.name`."""
        return self._generator.name

    @property
    def capabilities(self) -> Capabilities:
        """See `Generator.capabilities`."""
        return self._generator.capabilities

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """See `SettingsChecker.broken_rules`."""
        rules = rules_of(self._generator)
        return {} if rules is None else rules(settings)

    @property
    def fingerprint(self) -> str:
        """The generator's fingerprint, as the price does not affect images."""
        return fingerprint(self._generator) or ""

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`."""
        images = await self._generator.generate(
            prompt, seeds=seeds, settings=settings, on_step=on_step
        )
        return [
            image.model_copy(update={"usage": image.usage.model_copy(update={"usd": self._usd})})
            if image.usage.usd is None
            else image
            for image in images
        ]


def unit_prices(
    budget: Budget,
    *,
    reasoner_model: str | None,
    judge_model: str | None,
    image_usd: float | None,
    provider: ChatOptions | None,
) -> UnitPrices:
    """Return prices per call, from typical numbers of tokens and the prices of the models.

    Args:
        budget: The budget; if it limits dollars, every model must have a price.
        reasoner_model: The language model that rewrites; None if rewriting is free.
        judge_model: The language model that judges; None if judging is free.
        image_usd: Price of an image in US dollars; None if it is unknown or free.
        provider: Server, key and prices of the models.

    Raises:
        UnknownCostError: The budget limits dollars, but a model has no price.
    """
    table = _table(provider)
    found = {
        "rewrite": _price(table, reasoner_model, *REWRITE_TOKENS),
        "judge": _price(table, judge_model, *JUDGE_TOKENS),
    }
    for part, model in (("rewrite", reasoner_model), ("judge", judge_model)):
        if budget.usd is not None and found[part] is None:
            raise UnknownCostError(
                f"The budget is {budget.usd:g} dollars, and {model!r} has no known price.",
                hint="Give its price in the file named by LENS_PRICES or the setting prices, "
                "or limit images, calls or seconds instead.",
            )
    return UnitPrices(
        rewrite=found["rewrite"] or 0.0, judge=found["judge"] or 0.0, generate=image_usd or 0.0
    )


def _table(provider: ChatOptions | None) -> PriceTable:
    given = provider or {}
    prices = given.get("prices")
    if prices is not None:
        return price_table(prices)
    return openai_prices() if is_official(_url(given)) else NO_PRICES


def _url(provider: ChatOptions) -> str:
    import os

    return provider.get("base_url") or os.environ.get("OPENAI_BASE_URL") or OFFICIAL_URL


def _price(table: PriceTable, model: str | None, read: int, written: int) -> float | None:
    if model is None:
        return 0.0
    tokens = Usage(input_tokens=read, output_tokens=written, cached_tokens=0)
    return table.cost(model, tokens)
