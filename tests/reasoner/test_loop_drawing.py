"""How the loop draws: with generators that fail, in batches, and until somebody leaves."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

import pytest
from PIL import Image

from lens_reasoner import (
    AgentLoop,
    BlockingGenerator,
    Capabilities,
    FunctionGenerator,
    GeneratedImage,
    GeneratorError,
    ImageReady,
    LoopLimits,
    StageFailed,
    Step,
    StepProgress,
)
from redness import REQUEST, RUBRIC, RednessJudge, paint


def _failing_at(bad_seed: int):
    def draw(prompt: str, seed: int) -> Image.Image:
        if seed == bad_seed:
            raise ValueError("out of paint")
        return paint(prompt, seed)

    return FunctionGenerator(draw, name="painter")


async def test_a_generator_that_fails_at_once_raises_its_cause() -> None:
    with pytest.raises(GeneratorError, match=r"'painter' failed.*out of paint") as caught:
        await AgentLoop(generator=_failing_at(40)).run(REQUEST)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_generator_that_fails_later_keeps_what_is_there() -> None:
    loop = AgentLoop(
        generator=_failing_at(41), judge=RednessJudge(99), limits=LoopLimits(max_rounds=3)
    )
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert [c.image.seed for c in result.candidates] == [40]
    assert result.best.score == 0.5
    assert result.stop_reason == "generator_failed"
    assert [f.stage for f in result.failures] == ["generate"]


class Batches(BlockingGenerator):
    """Draws up to two pictures per call, one too few when told so."""

    name = "batches"
    capabilities = Capabilities(seed=True, max_images=2)

    def __init__(self, forget: bool = False) -> None:
        super().__init__()
        self.forget = forget
        self.calls: list[list[int]] = []

    def draw(self, prompt, *, seeds, settings, on_step):
        self.calls.append(list(seeds))
        for step in (1, 2, 3):
            on_step(StepProgress(step=step, total=3))
        pictures = [
            GeneratedImage.from_pil(
                paint(prompt, seed), prompt=prompt, seed=seed, settings=settings, generator="b"
            )
            for seed in seeds
        ]
        return pictures[:1] if self.forget else pictures


async def test_batches_respect_the_limit_and_number_their_steps() -> None:
    generator = Batches()
    request = REQUEST.model_copy(update={"num_images": 5})
    events = [event async for event in AgentLoop(generator=generator).stream(request)]
    assert generator.calls == [[40, 41], [42, 43], [44]]
    steps = [(e.index, e.step) for e in events if isinstance(e, Step)]
    assert steps == [(i, s) for i in (0, 2, 4) for s in (1, 2, 3)]
    ready = [e.index for e in events if isinstance(e, ImageReady)]
    assert ready == [0, 1, 2, 3, 4]
    first_picture = next(i for i, e in enumerate(events) if isinstance(e, ImageReady))
    assert sum(isinstance(e, Step) for e in events[:first_picture]) == 3


class Swift(Batches):
    """Draws in a thread, and has done so before the event loop can do anything else."""

    async def generate(self, prompt, *, seeds, settings, on_step=None):
        with ThreadPoolExecutor(1) as thread:
            drawing = partial(self.draw, prompt, seeds=seeds, settings=settings, on_step=on_step)
            return thread.submit(drawing).result()


async def test_steps_told_by_a_thread_come_before_its_pictures() -> None:
    events = [event async for event in AgentLoop(generator=Swift()).stream(REQUEST)]
    drawn = [type(event) for event in events if isinstance(event, Step | ImageReady)]
    assert drawn == [Step, Step, Step, ImageReady, ImageReady]


async def test_a_picture_too_few_is_a_failure_but_the_picture_is_kept() -> None:
    events = [e async for e in AgentLoop(generator=Batches(forget=True)).stream(REQUEST)]
    assert sum(isinstance(e, ImageReady) for e in events) == 1
    (failed,) = [e for e in events if isinstance(e, StageFailed)]
    assert "1 images for 2 seeds" in failed.failure.message
    assert (failed.round, failed.index) == (0, 1)
    assert events[-1].stop_reason == "unjudged"


async def test_pictures_are_handed_out_before_judging_begins() -> None:
    seen: list[str] = []

    class Watching(RednessJudge):
        async def judge(self, image, rubric):
            await asyncio.wait_for(handed_out.wait(), 5)
            return await super().judge(image, rubric)

    handed_out = asyncio.Event()
    loop = AgentLoop(generator=FunctionGenerator(paint), judge=Watching(0))
    async for event in loop.stream(REQUEST, rubric=RUBRIC):
        seen.append(type(event).__name__)
        if seen.count("ImageReady") == 2:
            handed_out.set()
    assert seen[-1] == "Finished"


async def test_leaving_the_stream_ends_the_drawing() -> None:
    drawn: list[int] = []

    def slow(prompt: str, seed: int) -> Image.Image:
        drawn.append(seed)
        return paint(prompt, seed)

    request = REQUEST.model_copy(update={"num_images": 200})
    loop = AgentLoop(generator=FunctionGenerator(slow))
    async with aclosing(loop.stream(request)) as events:
        async for event in events:
            if isinstance(event, ImageReady):
                break
    after = len(drawn)
    await asyncio.sleep(0.1)
    assert len(drawn) <= after + 1 < 200
