"""Rubrics as a training reward, and its way into a config."""

import asyncio

import pytest
from PIL import Image

from lens_core.errors import ParameterError
from lens_core.training.prompts import Prompt
from lens_core.training.rewards import RewardQueue
from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    ImageRequest,
    JudgeError,
    Rubric,
    Usage,
    Verdict,
)
from lens_sdk.rubric_reward import RubricReward

RUBRIC = [
    {"name": "red", "kind": "color", "question": "Is it red?"},
    {"name": "blue", "kind": "color", "question": "Is it blue?"},
    {"name": "cup", "kind": "object", "question": "Is it a cup?"},
]


class ColorJudge:
    """Says whether the picture has the colour a criterion is named after."""

    name = "colours"

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        seen = image.image.convert("RGB").getpixel((0, 0))
        if seen == (0, 0, 0):
            raise JudgeError("too dark", usage=Usage.zero())
        truth = {"red": seen == (255, 0, 0), "blue": seen == (0, 0, 255)}
        verdicts = [
            CriterionVerdict(
                criterion=item.name,
                answer=("yes" if truth[item.name] else "no")
                if item.name in truth
                else "cannot_tell",
            )
            for item in rubric.criteria
        ]
        return Verdict(image_sha256=image.sha256, verdicts=tuple(verdicts), judge=self.name)


class CountingWriter:
    """Writes a rubric in a while and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def write(self, request: ImageRequest) -> Rubric:
        self.asked += 1
        await asyncio.sleep(0.01)
        if "nothing" in request.text:
            raise JudgeError("nothing to check", usage=Usage.zero())
        name = "red" if "red" in request.text else "cup"
        criterion = Criterion(name=name, kind="object", question="Is it there?")
        return Rubric(request=request.text, criteria=(criterion,))


def test_score_is_the_share_of_answered_criteria() -> None:
    reward = RubricReward(ColorJudge(), CountingWriter())
    prompt = Prompt("a red cup", {"rubric": RUBRIC})
    score = asyncio.run(reward.score(Image.new("RGB", (16, 16), "red"), prompt))
    assert score is not None
    assert score.value == 0.5
    assert score.parts == {"color": 0.5, "coverage": 0.5}


def test_rubric_is_written_once_and_failures_are_missing() -> None:
    writer = CountingWriter()
    queue = RewardQueue(RubricReward(ColorJudge(), writer), concurrency=8, timeout=10)
    red, black = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "black")
    cases = [(red, "red")] * 4 + [(black, "red"), (red, "a cup"), (red, "nothing")]
    for index, (image, text) in enumerate(cases):
        queue.submit(index, image, Prompt(text))
    scores = queue.collect()
    queue.close()
    assert [scores.by_index[index].value for index in range(4)] == [1.0] * 4  # type: ignore[union-attr]
    assert [scores.by_index[index] for index in (4, 5, 6)] == [None] * 3
    assert writer.asked == 3
    assert len(scores.errors) == 2


def test_rubric_that_is_none_is_named() -> None:
    reward = RubricReward(ColorJudge(), CountingWriter())
    with pytest.raises(ParameterError, match="rubric of 'a cup'"):
        asyncio.run(reward.score(Image.new("RGB", (8, 8)), Prompt("a cup", {"rubric": ["red?"]})))
