"""Answers and pictures that got lost on their way: none counts for or against anything."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lens_reasoner import (
    AgentLoop,
    Cache,
    Capabilities,
    ChatReply,
    CompositeJudge,
    CriterionVerdict,
    ExtraVotes,
    GeneratedImage,
    GenerationSettings,
    ImageRequest,
    Judge,
    LoopLimits,
    OneCall,
    PerCriterion,
    Rubric,
    RubricJudge,
    Usage,
    Verdict,
)
from lens_reasoner.cached_parts import CachedGenerator
from scripted_chat import Asked, ScriptedChat, failure
from word_world import RUBRIC, paint

PENNY = Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.01)


def _image(prompt: str, seed: int) -> GeneratedImage:
    drawn = GeneratedImage.from_pil(
        paint(prompt, seed),
        prompt=prompt,
        seed=seed,
        settings=GenerationSettings(),
        generator="g",
    )
    return drawn.model_copy(update={"usage": PENNY})


class Sheets:
    """Draws several pictures in one call, at most `most` of those that were asked for."""

    name = "sheets"
    capabilities = Capabilities(seed=True, max_images=4)

    def __init__(self, most: int = 4) -> None:
        self.most = most

    async def generate(
        self, prompt: str, *, seeds: Sequence[int], settings: GenerationSettings, on_step=None
    ) -> list[GeneratedImage]:
        return [_image(prompt, seed) for seed in seeds[: self.most]]


class Halting:
    """Loses all answers about the first picture but one; finds one thing missing in later ones."""

    name = "halting"

    def __init__(self) -> None:
        self.asked = 0

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        self.asked += 1
        lost = self.asked == 1
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                CriterionVerdict(criterion=c.name, answer="cannot_tell", failed=True)
                if lost and number
                else CriterionVerdict(criterion=c.name, answer="yes" if lost or number else "no")
                for number, c in enumerate(rubric.criteria)
            ),
            judge=self.name,
            usage=Usage.zero(),
        )


async def test_a_picture_of_which_most_answers_got_lost_is_neither_best_nor_good_enough() -> None:
    loop = AgentLoop(generator=Sheets(), judge=Halting(), limits=LoopLimits(max_rounds=2))
    result = await loop.run(ImageRequest(text="red", seed=0), rubric=RUBRIC)
    assert [candidate.score for candidate in result.candidates] == [1, pytest.approx(2 / 3)]
    assert (result.stop_reason, result.best_index) == ("max_rounds", 1)


def test_the_least_score_takes_lost_answers_as_no() -> None:
    def score(*answers: str) -> float | None:
        verdicts = tuple(
            CriterionVerdict(
                criterion=str(number),
                answer="cannot_tell" if answer == "lost" else answer,
                failed=answer == "lost",
            )
            for number, answer in enumerate(answers)
        )
        return Verdict(image_sha256="0", verdicts=verdicts, judge="j").least_score

    assert score("yes", "yes", "cannot_tell") == 1
    assert score("yes", "lost") == 0.5
    assert score("no", "lost") == 0
    assert score("lost", "lost") is None
    assert score("cannot_tell") is None


def _single(reply) -> ScriptedChat:
    return ScriptedChat(lambda asked: reply(asked.text))


async def test_a_call_that_failed_is_no_vote() -> None:
    first = PerCriterion(
        _single(lambda q: failure() if "red" in q else {"evidence": "e", "answer": "no"})
    )
    again = PerCriterion(_single(lambda q: {"evidence": "seen", "answer": "yes"}))
    verdict = await RubricJudge(mode=ExtraVotes(first, again)).judge(_image("p", 1), RUBRIC)
    found = {line.criterion: line for line in verdict.verdicts}
    red = found["red"]
    assert (red.answer, red.failed, red.agreement) == ("yes", False, 1)
    assert [vote.answer for vote in red.votes] == ["yes", "yes"]


async def test_a_criterion_the_model_passed_over_is_asked_again() -> None:
    def lazy(asked: Asked) -> dict:
        return {"verdicts": [{"id": 1, "evidence": "seen", "answer": "yes"}]}

    verdict = await RubricJudge(mode=OneCall(ScriptedChat(lazy))).judge(_image("p", 1), RUBRIC)
    assert sorted(line.failed for line in verdict.verdicts) == [False, True, True]


async def test_pictures_too_few_cost_what_they_say_and_nothing_more() -> None:
    loop = AgentLoop(generator=Sheets(most=2), limits=LoopLimits(max_usd=1))
    result = await loop.run(ImageRequest(text="red", seed=0, num_images=3))
    assert [failure.stage for failure in result.failures] == ["generate"]
    assert result.usage.usd == pytest.approx(0.02)


async def test_pictures_too_few_do_not_take_the_places_of_others(tmp_path: Path) -> None:
    cache, settings = Cache(tmp_path), GenerationSettings()
    await CachedGenerator(Sheets(), cache).generate("red", seeds=[7], settings=settings)
    half = CachedGenerator(Sheets(most=1), cache)
    drawn = await half.generate("red", seeds=[5, 6, 7], settings=settings)
    assert [image.seed for image in drawn] == [5]


@dataclass
class Breaking:
    """Answers slowly, and breaks at its second call in a way it does not announce."""

    model: str = "breaking"
    calls: int = 0

    async def complete(self, messages, *, schema, **options) -> ChatReply:
        self.calls += 1
        if self.calls == 2:
            raise ZeroDivisionError("my own mistake")
        await asyncio.sleep(0.02)
        parsed = schema(evidence="e", answer="yes")
        return ChatReply("{}", parsed, PENNY, self.model, 0.0, "stop")


@pytest.mark.parametrize("shared", [False, True])
async def test_after_an_error_nobody_announced_nothing_more_is_asked(shared: bool) -> None:
    chat, kinds = Breaking(), ("count", "color", "object")
    criteria = [
        criterion.model_copy(update={"name": f"{kind} {criterion.name}", "kind": kind})
        for kind in kinds
        for criterion in RUBRIC.criteria
    ]
    judge: Judge = RubricJudge(mode=PerCriterion(chat, concurrency=2))
    if shared:
        judge = CompositeJudge({k: [RubricJudge(mode=PerCriterion(chat))] for k in kinds})
    rubric = Rubric(request="r", criteria=tuple(criteria))
    with pytest.raises(ZeroDivisionError):
        await judge.judge(_image("p", 1), rubric)
    before = chat.calls
    await asyncio.sleep(0.1)
    assert chat.calls == before
