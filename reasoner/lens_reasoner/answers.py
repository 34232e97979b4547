"""Checks of what parts return, because any part may be user code."""

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
"""The method called on each part, and what it must return."""

T = TypeVar("T")


async def answer_of(role: Role, called: Awaitable[T], *kinds: type) -> T:
    """Await a part's answer and check its type.

    Args:
        role: The part's role.
        called: What the call returned.
        *kinds: The types that an answer may have.

    Raises:
        LoopConfigError: The answer has another type, or the method is not async.
    """
    method, form = _FORMS[role]
    # The types rule this out, but user code may be unchecked.
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


async def images_of(
    generator: Generator, called: Awaitable[list[GeneratedImage]]
) -> list[GeneratedImage]:
    """The images that a generator's `generate` returned; their number is not checked.

    Raises:
        GeneratorError: They are not a list of images.
    """
    try:
        images = await answer_of("generator", called, list, tuple)
        for image in images:
            if not isinstance(image, GeneratedImage):
                raise LoopConfigError(
                    f"The generator returned {type(image).__name__} as an image.",
                    hint=f"Return {_FORMS['generator'][1]}.",
                )
    except LoopConfigError as error:
        message = f"{generator.name!r}: {error.message}"
        raise GeneratorError(message, usage=Usage(), hint=error.hint) from error
    return images


async def verdict_of(judge: Judge, image: GeneratedImage, rubric: Rubric) -> Verdict:
    """A judge's verdict on an image, with each answer weighted as its criterion is.

    Raises:
        LoopConfigError: It is not a verdict.
        JudgeError: The judge failed, or answered other criteria than it was asked about.
    """
    verdict = await answer_of("judge", judge.judge(image, rubric), Verdict)
    weights = {criterion.name: criterion.weight for criterion in rubric.criteria}
    answered = [answer.criterion for answer in verdict.verdicts]
    if sorted(answered) != sorted(weights):
        raise JudgeError(
            f"{judge.name!r} was asked about {sorted(weights)} and answered about "
            f"{sorted(answered)}.",
            usage=verdict.usage,
            hint='A verdict has one answer per criterion, by name; "cannot_tell" is an answer.',
        )
    weighted = (a.model_copy(update={"weight": weights[a.criterion]}) for a in verdict.verdicts)
    return verdict.model_copy(update={"verdicts": tuple(weighted)})
