"""Parts of somebody's own that answer something else than they were asked for."""

import pytest
from PIL import Image

from lens_reasoner import (
    AgentLoop,
    Capabilities,
    CriterionVerdict,
    FunctionGenerator,
    GeneratorError,
    LoopConfigError,
    Verdict,
)
from redness import REQUEST, RUBRIC, paint


class Odd:
    """A part of somebody's own that answers as told, from any of its methods."""

    name = "odd"
    capabilities = Capabilities(seed=True)

    def __init__(self, answer) -> None:
        async def method(*_, **__):
            return answer

        self.generate = self.rewrite = self.write = self.judge = method


async def test_a_judge_of_ones_own_that_gives_no_verdict_loses_no_picture() -> None:
    """A number for a verdict ended the run with pydantic's words for an event, and no picture."""
    answers = {
        "returned float from 'judge'. Return Verdict(": Odd(0.7),
        "asked about ['red', 'square'] and answered about ['blue']": Odd(
            Verdict(
                image_sha256="0" * 64,
                verdicts=(CriterionVerdict(criterion="blue", answer="yes"),),
                judge="odd",
            )
        ),
    }
    for told, judge in answers.items():
        loop = AgentLoop(generator=FunctionGenerator(paint), judge=judge)
        result = await loop.run(REQUEST, rubric=RUBRIC)
        assert (len(result.candidates), result.stop_reason) == (2, "unjudged")
        failure = result.candidates[0].failure
        assert told in f"{failure.message} {failure.hint}"


async def test_a_judge_that_is_not_async_is_told_how_to_be() -> None:
    class Plain:
        name = "plain"

        def judge(self, image, rubric):
            return None

    result = await AgentLoop(generator=FunctionGenerator(paint), judge=Plain()).run(
        REQUEST, rubric=RUBRIC
    )
    assert "async def judge" in result.candidates[0].failure.hint


async def test_answers_have_the_weights_of_the_rubric() -> None:
    """A judge of one's own that did not copy them weighed all criteria alike."""
    answers = [("red", "yes"), ("square", "no")]
    verdict = Verdict(
        image_sha256="0" * 64,
        verdicts=tuple(CriterionVerdict(criterion=c, answer=a) for c, a in answers),
        judge="odd",
    )
    red, square = RUBRIC.criteria
    heavy = RUBRIC.model_copy(update={"criteria": (red, square.model_copy(update={"weight": 3.0}))})
    loop = AgentLoop(generator=FunctionGenerator(paint), judge=Odd(verdict))
    assert (await loop.run(REQUEST, rubric=heavy)).best.score == 0.25


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        ({"reasoner": Odd("a prompt")}, LoopConfigError, "Return Rewrite("),
        ({"generator": Odd([Image.new("RGB", (8, 8))])}, GeneratorError, "from_pil"),
        ({"generator": Odd(None)}, GeneratorError, "from_pil"),
    ],
)
async def test_other_answers_than_asked_for_are_told(parts, error, told) -> None:
    loop = AgentLoop(**{"generator": FunctionGenerator(paint), **parts})
    with pytest.raises(error) as caught:
        await loop.run(REQUEST)
    assert told in str(caught.value)
