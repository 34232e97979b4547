"""What ends a run, and what goes on side by side."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from lens_reasoner import (
    AgentLoop,
    BlockingGenerator,
    Capabilities,
    FunctionGenerator,
    GeneratedImage,
    GenerationSettings,
    ImageReady,
    Judged,
    LoopLimits,
    Rewrite,
    RunRecord,
    StepProgress,
    Usage,
    fold_events,
)
from word_world import (
    REQUEST,
    RUBRIC,
    WordChecker,
    WordJudge,
    WordReasoner,
    WordReviser,
    WordRubricWriter,
    paint,
)

DIME = Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.1)
NEVER = LoopLimits(max_rounds=50)


def _image(prompt: str, seed: int, usage: Usage | None = None) -> GeneratedImage:
    image = GeneratedImage.from_pil(
        paint(prompt, seed),
        prompt=prompt,
        seed=seed,
        settings=GenerationSettings(),
        generator="g",
    )
    return image.model_copy(update={"usage": usage or Usage.zero()})


class Remote:
    """Draws as many at once as it is asked to; each picture takes `seconds` and costs `usage`."""

    name = "remote"

    def __init__(self, *, at_once: int = 1, seconds: float = 0.0, usage: Usage | None = None):
        self.capabilities = Capabilities(seed=True, max_concurrency=at_once)
        self.seconds = seconds
        self.usage = usage
        self.under_way = 0
        self.most_under_way = 0

    async def generate(
        self, prompt: str, *, seeds: Sequence[int], settings: GenerationSettings, on_step=None
    ) -> list[GeneratedImage]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        # Later seeds are ready first.
        await asyncio.sleep(self.seconds * (2 - seeds[0] % 4 / 4))
        self.under_way -= 1
        return [_image(prompt, seeds[0], self.usage)]


class Slow(BlockingGenerator):
    """Takes many small steps for each picture, in its own thread."""

    name = "slow"
    capabilities = Capabilities(seed=True)

    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.steps = steps
        self.done = 0
        self.threads: set[str] = set()

    def draw(self, prompt, *, seeds, settings, on_step):
        self.threads.add(threading.current_thread().name)
        for step in range(1, self.steps + 1):
            time.sleep(0.01)
            self.done += 1
            on_step(StepProgress(step=step, total=self.steps))
        return [_image(prompt, seeds[0])]


async def test_the_image_limit_cuts_the_last_round_short() -> None:
    for most, rounds in ((1, [0]), (2, [0, 0]), (3, [0, 0, 1]), (4, [0, 0, 1, 1])):
        loop = AgentLoop(
            generator=FunctionGenerator(paint),
            reasoner=WordReasoner("red green"),
            judge=WordJudge(),
            reviser=(reviser := WordReviser()),
            limits=LoopLimits(max_rounds=9, max_images=most),
        )
        result = await loop.run(REQUEST, rubric=RUBRIC)
        assert [c.round for c in result.candidates] == rounds
        assert result.stop_reason == "max_images"
        # No prompt is paid for that could not be drawn any more.
        assert len(reviser.asked) == max(rounds)


async def test_the_cost_limit_is_checked_before_every_call() -> None:
    judge = WordJudge(usage=DIME)
    loop = AgentLoop(
        generator=Remote(usage=DIME),
        reasoner=WordReasoner("red", DIME),
        judge=judge,
        limits=LoopLimits(max_rounds=50, max_usd=0.65),
    )
    result = await loop.run(REQUEST.model_copy(update={"num_images": 1}), rubric=RUBRIC)
    # One rewrite and three rounds of one picture and one verdict.
    assert result.stop_reason == "max_cost"
    assert result.usage.usd == pytest.approx(0.7)
    assert (len(result.candidates), len(judge.calls)) == (3, 3)
    assert result.best is not None
    assert result.usage_by_stage["judge"].usd == pytest.approx(0.3)


async def test_an_unjudged_picture_is_still_there_when_the_money_is_gone() -> None:
    loop = AgentLoop(
        generator=Remote(usage=DIME),
        judge=(judge := WordJudge(usage=DIME)),
        limits=LoopLimits(max_usd=0.1),
    )
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert (result.stop_reason, len(result.candidates), judge.calls) == ("max_cost", 1, [])
    assert result.best.score is None


@pytest.mark.parametrize("unknown", ["reasoner", "generator", "judge"])
async def test_an_unknown_cost_ends_a_run_that_has_a_cost_limit(unknown: str) -> None:
    usage = {"reasoner": DIME, "generator": DIME, "judge": DIME, unknown: Usage()}

    def loop(max_usd: float | None) -> AgentLoop:
        return AgentLoop(
            generator=Remote(usage=usage["generator"]),
            reasoner=WordReasoner("red", usage["reasoner"]),
            judge=WordJudge(usage=usage["judge"]),
            limits=LoopLimits(max_rounds=2, max_usd=max_usd),
        )

    request = REQUEST.model_copy(update={"num_images": 1})
    result = await loop(100).run(request, rubric=RUBRIC)
    assert result.stop_reason == "cost_unknown"
    assert len(result.candidates) == (0 if unknown == "reasoner" else 1)
    assert result.usage.usd is None
    assert (await loop(None).run(request, rubric=RUBRIC)).stop_reason == "max_rounds"


async def test_the_deadline_gives_up_what_is_under_way() -> None:
    generator = Slow(steps=30)
    loop = AgentLoop(
        generator=generator,
        judge=WordJudge(),
        limits=LoopLimits(max_rounds=50, deadline=0.8),
    )
    started = time.perf_counter()
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert 0.8 <= time.perf_counter() - started < 10
    assert result.stop_reason == "deadline"
    assert result.best is not None
    assert result.best.verdict is not None
    (failure,) = result.failures
    assert (failure.stage, failure.error) == ("generate", "DeadlinePassed")
    # Its other pictures were free, so half a one is.
    assert result.usage == Usage.zero()
    after = generator.done
    await asyncio.sleep(0.2)
    assert generator.done <= after + 1


async def test_a_deadline_may_pass_before_there_is_any_picture() -> None:
    class Thinking(WordReasoner):
        async def rewrite(self, request) -> Rewrite:
            await asyncio.sleep(30)
            return await super().rewrite(request)

    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        reasoner=Thinking("red"),
        limits=LoopLimits(deadline=0.1),
    )
    result = await loop.run(REQUEST)
    assert (result.stop_reason, result.best, result.prompts) == ("deadline", None, ())
    assert [failure.stage for failure in result.failures] == ["rewrite"]
    # What the cut off call cost is unknown.
    assert result.usage.usd is None


async def test_a_timeout_of_a_part_is_not_the_deadline() -> None:
    class Impatient(WordReasoner):
        async def rewrite(self, request) -> Rewrite:
            raise TimeoutError("part")

    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        reasoner=Impatient("red"),
        limits=LoopLimits(deadline=60),
    )
    with pytest.raises(TimeoutError, match="part"):
        await loop.run(REQUEST)


async def test_the_deadline_counts_on_after_an_interruption(tmp_path) -> None:
    def loop() -> AgentLoop:
        return AgentLoop(
            generator=Slow(steps=10),
            judge=WordJudge(),
            limits=LoopLimits(max_rounds=500, deadline=1.0),
        )

    async with aclosing(loop().stream(REQUEST, rubric=RUBRIC, record=tmp_path)) as events:
        async for event in events:
            if isinstance(event, Judged) and event.index == 2:
                break
    spent = RunRecord(tmp_path).clock["total"]
    started = time.perf_counter()
    result = await loop().resume(tmp_path)
    assert time.perf_counter() - started < 1.0 - spent + 2
    assert result.stop_reason == "deadline"
    assert result.timings["total"] == pytest.approx(1.0, abs=1.5)


async def test_pictures_are_judged_while_the_next_one_is_drawn() -> None:
    generator = Slow(steps=10)
    loop = AgentLoop(generator=generator, judge=WordJudge())
    request = REQUEST.model_copy(update={"num_images": 4})
    events = [e async for e in loop.stream(request, rubric=RUBRIC)]
    order = [(type(e), e.index) for e in events if isinstance(e, ImageReady | Judged)]
    for index in range(3):
        assert order.index((Judged, index)) < order.index((ImageReady, index + 1))


async def test_one_machine_draws_one_at_a_time() -> None:
    generator = Slow(steps=5)
    loop = AgentLoop(generator=generator, judge=WordJudge(), limits=LoopLimits(max_rounds=2))
    # Two runs share the machine.
    results = await asyncio.gather(*(loop.run(REQUEST, rubric=RUBRIC) for _ in range(2)))
    assert [len(result.candidates) for result in results] == [4, 4]
    seconds = sum(result.timings["generate"] for result in results)
    assert seconds > 8 * 5 * 0.01


@pytest.mark.parametrize("at_once", [1, 3])
async def test_remote_pictures_are_drawn_in_parallel_up_to_the_limit(at_once: int) -> None:
    generator = Remote(at_once=at_once, seconds=0.02)
    loop = AgentLoop(generator=generator, judge=WordJudge(), limits=LoopLimits(max_rounds=2))
    request = REQUEST.model_copy(update={"num_images": 7})
    events = [e async for e in loop.stream(request, rubric=RUBRIC)]
    assert generator.most_under_way == at_once
    result = fold_events(events)
    # Whatever order they came in, they are told by number and seed.
    assert [c.index for c in result.candidates] == list(range(len(result.candidates)))
    assert [c.image.seed for c in result.candidates] == list(range(len(result.candidates)))
    arrived = [e.index for e in events if isinstance(e, ImageReady)]
    assert (arrived == sorted(arrived)) == (at_once == 1)
    assert events[-1].best == result.candidates[result.best_index].index


async def test_one_failed_call_of_many_loses_only_its_own_picture() -> None:
    class Flaky(Remote):
        async def generate(self, prompt, *, seeds, settings, on_step=None):
            if seeds[0] == 1:
                await asyncio.sleep(0.005)
                raise ConnectionError("lost")
            return await super().generate(prompt, seeds=seeds, settings=settings)

    loop = AgentLoop(generator=Flaky(at_once=4, seconds=0.01), judge=WordJudge(), limits=NEVER)
    result = await loop.run(REQUEST.model_copy(update={"num_images": 4}), rubric=RUBRIC)
    assert [c.index for c in result.candidates] == [0, 2, 3]
    assert result.stop_reason == "generator_failed"
    assert result.best is result.candidates[result.best_index]
    assert result.usage.usd is None


async def test_runs_side_by_side_share_what_the_generator_allows() -> None:
    """Each run had as many calls under way as all of them together may have."""
    generator = Remote(at_once=2, seconds=0.01)
    loop = AgentLoop(generator=generator)
    await asyncio.gather(*(loop.run("red", num_images=3) for _ in range(4)))
    assert generator.most_under_way == 2


async def test_the_rubric_is_written_while_the_first_picture_is_drawn() -> None:
    drawing = asyncio.Event()

    class Waiting(WordRubricWriter):
        async def write(self, request):
            await asyncio.wait_for(drawing.wait(), 5)
            return await super().write(request)

    class Telling(Remote):
        async def generate(self, *arguments, **options):
            drawing.set()
            return await super().generate(*arguments, **options)

    loop = AgentLoop(
        generator=Telling(),
        judge=WordJudge(),
        rubric_writer=Waiting(),
        fidelity_checker=WordChecker(),
    )
    result = await loop.run(REQUEST)
    assert result.rubric == RUBRIC
