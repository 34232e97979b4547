"""A picture, its criteria, and models that judge it, for tests of judges."""

from collections.abc import Callable

from PIL import Image

from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    GenerationSettings,
    Rubric,
    Verdict,
)
from scripted_chat import Asked, ScriptedChat


def picture(width: int = 16, height: int = 8, color: str = "red", mode: str = "RGB"):
    return GeneratedImage.from_pil(
        Image.new(mode, (width, height), color),
        prompt="p",
        seed=1,
        settings=GenerationSettings(),
        generator="g",
    )


PICTURE = picture()
RUBRIC = Rubric(
    request="r",
    criteria=tuple(
        Criterion(name=f"c{i}", kind="object", question=f"Question {i}?", weight=i + 1)
        for i in range(5)
    ),
)


def numbered(call: Asked) -> dict[int, str]:
    lines = (line.split(". ", 1) for line in call.text.splitlines())
    return {int(number): question for number, question in lines}


def one_call(decide: Callable[[str], dict], **how) -> ScriptedChat:
    """Answers each question of one call by `decide`."""

    def answer(call: Asked) -> dict:
        return {
            "verdicts": [
                {"id": number, "evidence": f"saw {question}", **decide(question)}
                for number, question in numbered(call).items()
            ]
        }

    return ScriptedChat(answer, **how)


def by_name(verdict: Verdict) -> dict[str, CriterionVerdict]:
    return {v.criterion: v for v in verdict.verdicts}
