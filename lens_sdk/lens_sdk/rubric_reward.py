"""A training reward from a judge: the fraction of a prompt's rubric that an image meets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image
from pydantic import ValidationError

from lens_core.errors import ParameterError
from lens_core.training.prompts import Prompt
from lens_core.training.rewards import Score
from lens_reasoner import (
    STRUCTURE,
    Criterion,
    GeneratedImage,
    GenerationSettings,
    ImageRequest,
    Judge,
    LLMRubricWriter,
    OneCall,
    OpenAIChat,
    PerCriterion,
    Rubric,
    RubricJudge,
    RubricWriter,
    Verdict,
)


class RubricReward:
    """Scores images by a rubric: the prompt's own, or one written once for the prompt.

    A prompt's own rubric is its fact "rubric", a list of `Criterion` fields; the criterion of
    structural integrity is added. Criteria that the judge cannot tell are ignored, and an image
    without any answer has no score.

    Args:
        judge: Judges the images.
        writer: Writes rubrics for prompts without one.
    """

    def __init__(self, judge: Judge, writer: RubricWriter) -> None:
        self._judge = judge
        self._writer = writer
        self._written: dict[str, asyncio.Task[Rubric]] = {}

    async def score(self, image: Image.Image, prompt: Prompt) -> Score | None:
        """See `lens_core.training.rewards.Reward`; the parts are pass rates by kind of criterion.

        Raises:
            JudgeError: The rubric could not be written, or the image not judged.
            ParameterError: The prompt's rubric is invalid.
        """
        rubric = await self._rubric(prompt)
        picture = GeneratedImage.from_pil(
            image, prompt=prompt.text, seed=None, settings=GenerationSettings(), generator="rollout"
        )
        verdict = await self._judge.judge(picture, rubric)
        if verdict.score is None:
            return None
        return Score(verdict.score, {**_pass_rates(rubric, verdict), "coverage": verdict.coverage})

    async def _rubric(self, prompt: Prompt) -> Rubric:
        given = prompt.facts.get("rubric")
        if given is not None:
            return _given_rubric(prompt.text, given)
        if prompt.text not in self._written:
            request = ImageRequest(text=prompt.text)
            self._written[prompt.text] = asyncio.ensure_future(self._writer.write(request))
        task = self._written[prompt.text]
        try:
            # Shared by several images: a timeout of one must not cancel it for the others.
            return await asyncio.shield(task)
        except Exception:
            self._written.pop(prompt.text, None)
            raise


def rubric_reward(
    judge_model: str | None = None,
    rubric_model: str | None = None,
    mode: Literal["per_criterion", "one_call"] = "per_criterion",
) -> RubricReward:
    """The recipe's reward, for `reward: lens_sdk.rubric_reward:rubric_reward` in a config.

    Args:
        judge_model: A vision model behind OpenAI's API or a compatible server; None means the
            default.
        rubric_model: Writes rubrics for prompts without one; None means the default.
        mode: Whether to ask about each criterion separately, as the recipe does, or all at once.

    Raises:
        MissingKeyError: There is no API key for the models.
        ParameterError: The mode is unknown.
    """
    chat = None if judge_model is None else OpenAIChat(judge_model)
    writer = LLMRubricWriter(None if rubric_model is None else OpenAIChat(rubric_model))
    if mode not in ("per_criterion", "one_call"):
        raise ParameterError(f"mode {mode!r} must be per_criterion or one_call")
    asking = PerCriterion(chat) if mode == "per_criterion" else OneCall(chat)
    return RubricReward(RubricJudge(mode=asking), writer)


def _given_rubric(text: str, given: Any) -> Rubric:
    try:
        criteria = [Criterion.model_validate(item) for item in given]
        return Rubric(request=text, criteria=(*criteria, STRUCTURE), author="prompts")
    except (ValidationError, TypeError) as error:
        raise ParameterError(
            f"the rubric of {text!r} must be a list of name, kind and question: {error}"
        ) from error


def _pass_rates(rubric: Rubric, verdict: Verdict) -> Mapping[str, float]:
    kinds = {criterion.name: criterion.kind for criterion in rubric.criteria}
    answers: dict[str, list[bool]] = {}
    for item in verdict.verdicts:
        if item.answer != "cannot_tell":
            answers.setdefault(kinds[item.criterion], []).append(item.answer == "yes")
    return {kind: sum(passed) / len(passed) for kind, passed in answers.items()}
