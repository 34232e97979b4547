"""What parts answer, held against what they were asked: a part of one's own may get it wrong."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any, Literal, TypeVar

from lens_reasoner.errors import GeneratorError, JudgeError, LoopConfigError
from lens_reasoner.generator import Generator
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge
from lens_reasoner.types import Rubric, Usage
from lens_reasoner.verdict import Verdict

Role = Literal["generator", "reasoner", "judge", "rubric_writer", "fidelity_checker", "reviser"]

_FORMS: dict[Role, tuple[str, str]] = {
    "generator": ("generate", "[GeneratedImage.from_pil(...), ...], one for each seed"),
    "reasoner": ("rewrite", "Rewrite(request=..., prompt=..., model=...) or Refused(reason=...)"),
    "judge": ("judge", "Verdict(image_sha256=..., verdicts=[...], judge=...)"),
    "rubric_writer": ("write", "Rubric(request=..., criteria=[...])"),
    "fidelity_checker": ("check", "FidelityReport(prompt=..., findings=[...])"),
    "reviser": ("revise", "Rewrite(request=..., prompt=..., model=...)"),
}
"""What is called of each part, and what that returns."""

T = TypeVar("T")


async def answer_of(role: Role, called: Awaitable[T], *kinds: type) -> T:
    """What a part answers, if it is what its role answers.

    Args:
        role: What the part is.
        called: What calling it returned.
        *kinds: What an answer may be.

    Raises:
        LoopConfigError: It is none of them, or there was nothing to wait for.
    """
    method, form = _FORMS[role]
    # Types say otherwise; not everybody's code is checked.
    unchecked: Any = called
    if not isawaitable(unchecked):
        raise LoopConfigError(
            f"The method {method!r} of the {role} is not async.",
            hint=f"Write 'async def {method}'; run blocking code in asyncio.to_thread.",
        )
    answer = await called
    if not isinstance(answer, kinds):
        raise LoopConfigError(
            f"The {role} returned {type(answer).__name__} from {method!r}.", hint=f"Return {form}."
        )
    return answer


async def pictures_of(
    generator: Generator, called: Awaitable[list[GeneratedImage]]
) -> list[GeneratedImage]:
    """The images that a generator's `generate` returns.

    Raises:
        GeneratorError: They are no such images; how many there are is the caller's business.
    """
    try:
        pictures = await answer_of("generator", called, list, tuple)
        for picture in pictures:
            if not isinstance(picture, GeneratedImage):
                raise LoopConfigError(
                    f"The generator returned {type(picture).__name__} as a picture.",
                    hint=f"Return {_FORMS['generator'][1]}.",
                )
    except LoopConfigError as error:
        message = f"{generator.name!r}: {error.message}"
        raise GeneratorError(message, usage=Usage(), hint=error.hint) from error
    return pictures


async def verdict_of(judge: Judge, image: GeneratedImage, rubric: Rubric) -> Verdict:
    """A judge's verdict about an image, each answer with the weight of its criterion.

    Raises:
        LoopConfigError: It is no verdict.
        JudgeError: The judge gave none, or one about other criteria than it was asked about.
    """
    verdict = await answer_of("judge", judge.judge(image, rubric), Verdict)
    weights = {criterion.name: criterion.weight for criterion in rubric.criteria}
    answered = [answer.criterion for answer in verdict.verdicts]
    if sorted(answered) != sorted(weights):
        raise JudgeError(
            f"{judge.name!r} was asked about {sorted(weights)} and answered about "
            f"{sorted(answered)}.",
            usage=verdict.usage,
            hint='A verdict has one answer to each criterion, by its name; "cannot_tell" is one.',
        )
    weighted = (a.model_copy(update={"weight": weights[a.criterion]}) for a in verdict.verdicts)
    return verdict.model_copy(update={"verdicts": tuple(weighted)})
