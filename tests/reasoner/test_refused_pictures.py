"""Pictures that a generator refuses: what they cost, what the record says, what is raised."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from lens_reasoner import (
    AgentLoop,
    Capabilities,
    GeneratedImage,
    GenerationRefusedError,
    GenerationSettings,
    ImageServiceError,
    LoopLimits,
    RunRecord,
    Usage,
)
from redness import RUBRIC, RednessJudge, paint

DIME = Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.1)


class Prudish:
    """One picture a call, each for a dime; refuses some seeds, and is away for others."""

    name = "prudish"
    capabilities = Capabilities(seed=True)

    def __init__(
        self, *refused: int, usage: Usage | None = DIME, away: int = -1, seconds: float = 0.0
    ) -> None:
        self.refused = refused
        self.usage = usage
        self.away = away
        self.seconds = seconds
        self.asked: list[int] = []

    async def generate(
        self, prompt: str, *, seeds: Sequence[int], settings: GenerationSettings, on_step=None
    ) -> list[GeneratedImage]:
        (seed,) = seeds
        self.asked.append(seed)
        await asyncio.sleep(self.seconds)
        if seed == self.away:
            raise ImageServiceError("busy", fault="server", usage=DIME)
        if seed in self.refused:
            raise GenerationRefusedError("indecent", usage=self.usage)
        image = GeneratedImage.from_pil(
            paint(prompt, seed), prompt=prompt, seed=seed, settings=settings, generator=self.name
        )
        return [image.model_copy(update={"usage": DIME})]


async def _run(generator: Prudish, limits: LoopLimits | None = None, record: Path | None = None):
    loop = AgentLoop(generator=generator, judge=RednessJudge(99), limits=limits)
    return await loop.run("a red square", seed=0, num_images=4, rubric=RUBRIC, record=record)


async def test_refused_pictures_count_for_the_cost_limit_at_once() -> None:
    """The rest of the round was drawn whatever it cost."""
    generator = Prudish(1, 2, 3)
    result = await _run(generator, LoopLimits(max_usd=0.15))
    assert generator.asked == [0, 1]
    assert (result.stop_reason, result.usage.usd) == ("max_cost", 0.2)

    generator = Prudish(1, usage=None)
    assert (await _run(generator, LoopLimits(max_usd=9))).stop_reason == "cost_unknown"
    assert generator.asked == [0, 1]

    # Also before there is any picture.
    generator = Prudish(0, 1, 2, 3)
    with pytest.raises(GenerationRefusedError):
        await _run(generator, LoopLimits(max_usd=0.15))
    assert generator.asked == [0, 1]


async def test_what_all_refusals_cost_is_told_with_the_error() -> None:
    """Only the first one's was."""
    with pytest.raises(GenerationRefusedError) as caught:
        await _run(Prudish(0, 1, 2, 3))
    assert caught.value.usage == Usage.total([DIME] * 4)
    with pytest.raises(GenerationRefusedError) as caught:
        await _run(Prudish(0, 1, 2, 3, usage=None))
    assert caught.value.usage == Usage()


async def test_what_ended_the_drawing_is_raised_and_not_a_refusal_before_it() -> None:
    generator = Prudish(0, away=1)
    with pytest.raises(ImageServiceError, match="busy") as caught:
        await _run(generator)
    assert generator.asked == [0, 1]
    assert caught.value.usage == DIME + DIME


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_refusal_is_written_down_before_the_round_is_over(
    tmp_path: Path, refused: int
) -> None:
    """A run killed within the round paid for it again, and the deadline forgot its cost."""
    generator = Prudish(refused, seconds=0.01)
    loop = AgentLoop(generator=generator, judge=RednessJudge(99))
    stream = loop.stream("a red square", seed=0, num_images=4, rubric=RUBRIC, record=tmp_path)
    async with aclosing(stream) as events:
        async for event in events:
            if event.type == "image_ready" and event.index == 2:
                break
    assert RunRecord(tmp_path).result().usage.usd == pytest.approx(0.3)
    generator.asked.clear()
    result = await _run(generator, record=tmp_path)
    assert generator.asked == [3]
    assert len(result.candidates) == 3
    assert len(result.failures) == 1
