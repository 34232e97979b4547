"""Judges: answering a rubric's criteria by looking at an image."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Protocol, runtime_checkable

from lens_reasoner.chat import ChatModel, ImageDetail
from lens_reasoner.errors import JudgeError, LoopConfigError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judging.mode import DEFAULT_JUDGE_MODEL, JudgeMode
from lens_reasoner.judging.one_call import OneCall
from lens_reasoner.judging.view import ImageCost, image_cost, show
from lens_reasoner.prices import OPENAI_PRICES, PriceTable
from lens_reasoner.types import Rubric, Usage
from lens_reasoner.verdict import Verdict

__all__ = ["DEFAULT_JUDGE_MODEL", "Judge", "RubricJudge"]


@runtime_checkable
class Judge(Protocol):
    """Looks at an image and answers the criteria of a rubric."""

    @property
    def name(self) -> str:
        """Name for records, such as "nano-detector"."""
        ...

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """Answer every criterion of `rubric` for `image`.

        A criterion that the judge cannot decide is "cannot_tell". A judge that fails altogether
        raises.

        Raises:
            JudgeError: There is no verdict at all.
        """
        ...


class RubricJudge:
    """Asks a vision model in the way its mode specifies; by default all criteria in one call.

    The order of the criteria is shuffled by the seed and the image.
    """

    def __init__(
        self,
        chat: ChatModel | None = None,
        *,
        mode: JudgeMode | None = None,
        detail: ImageDetail = "high",
        max_side: int | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the model and how it is asked.

        Args:
            chat: The model, asked with `OneCall`; None means OpenAI's `DEFAULT_JUDGE_MODEL`.
            mode: Another way to ask, with its own model; cannot be combined with `chat`.
            detail: Level of detail at which the model looks at the image; it also sets the price.
            max_side: Longest side in pixels of what the model is shown; None sends images unscaled.
            seed: Seed for the order of the criteria.

        Raises:
            LoopConfigError: Both `chat` and `mode` are given, or `max_side` is not positive.
            MissingKeyError: No model is given and there is no API key for the default one.
        """
        if chat is not None and mode is not None:
            raise LoopConfigError(
                "Both chat and mode are given to RubricJudge.",
                hint="Give the model to the mode: RubricJudge(mode=PerCriterion(chat)).",
            )
        if max_side is not None and max_side < 1:
            raise LoopConfigError(
                f"max_side={max_side} is not positive.", hint="Give a size in pixels, such as 1024."
            )
        self._mode = mode or OneCall(chat)
        self._detail: ImageDetail = detail
        self._max_side = max_side
        self._seed = seed

    @property
    def name(self) -> str:
        """The model's name."""
        return self._mode.model

    @property
    def fingerprint(self) -> str:
        """The model's name and a hash of everything that affects verdicts; used as a cache key."""
        settings = f"{self._mode.identity}|{self._detail}|{self._max_side}|{self._seed}"
        return f"{self.name}/{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`. Criteria that the model does not answer are "cannot_tell"."""
        started = time.perf_counter()
        try:
            shown = await asyncio.to_thread(
                show, image, max_side=self._max_side, detail=self._detail
            )
        except Exception as error:  # Pillow's errors for damaged files are not documented
            raise JudgeError(
                f"Image {image.sha256[:8]} cannot be shown to {self.name!r}: "
                f"{type(error).__name__}: {error}",
                usage=Usage.zero(),
                hint="The generator returned a damaged file.",
            ) from error
        seed = f"{self._seed}:{image.sha256}"
        ballot = await self._mode.ask(shown.part, rubric.criteria, seed=seed)
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(ballot.verdicts[criterion.name] for criterion in rubric.criteria),
            judge=ballot.model,
            view=shown.view,
            seconds=time.perf_counter() - started,
            usage=ballot.usage,
        )

    def estimate_cost(
        self,
        image: GeneratedImage,
        *,
        criteria: int = 1,
        prices: PriceTable = OPENAI_PRICES,
    ) -> ImageCost:
        """Estimate, before anything is paid, what it costs to show `image` for judging.

        Args:
            image: The image.
            criteria: Number of criteria; some modes send the image once for each.
            prices: Token prices.

        Returns:
            Tokens and US dollars; None where unknown.
        """
        shown = show(image, max_side=self._max_side, detail=self._detail)
        once = image_cost(self.name, shown.view, prices=prices)
        calls = self._mode.calls(criteria)
        return ImageCost(
            None if once.tokens is None else once.tokens * calls,
            None if once.usd is None else once.usd * calls,
        )
