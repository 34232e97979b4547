"""NanoEval: GenEval's six tasks and rules on images of the nano world.

The rules follow `evaluation/evaluate_images.py` of github.com/djghosh13/geneval (MIT). The numbers
are not comparable with GenEval's because the images and the detector differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from lens_core.errors import ParameterError
from lens_core.nano.captions import dense_caption
from lens_core.nano.detector import Detection, detect
from lens_core.nano.facts import Include, canonical_prompt, request_for
from lens_core.nano.geometry import relations
from lens_core.nano.sampling import sample_scene
from lens_core.nano.vocabulary import TASKS

HELD_OUT = 0x4C454E53
"""First integer of every evaluation seed; training seeds its generators differently."""
CONFIDENCE_Z = 1.959964
"""Standard score of a two-sided 95 % interval."""


@dataclass(frozen=True)
class EvalResult:
    """Whether an image shows what its metadata requires, and if not, why."""

    correct: bool
    reason: str


def evaluate(picture: Image.Image | Sequence[Detection], metadata: Mapping[str, Any]) -> EvalResult:
    """Judge one image by GenEval's rules.

    Every included class must be found at least `count` times. Colours and positions are judged on
    the `count` detections with the highest scores. A position must hold for each of them relative
    to each object of the group it refers to. An excluded class must be found fewer than `count`
    times.

    Args:
        picture: An image, or the detections in it.
        metadata: "include" and, for some tasks, "exclude" in GenEval's schema.
    """
    found = detect(picture) if isinstance(picture, Image.Image) else picture
    by_class: dict[str, list[Detection]] = {}
    for item in sorted(found, key=lambda d: -d.score):
        by_class.setdefault(item.cls, []).append(item)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for wanted in metadata["include"]:
        members = by_class.get(wanted["class"], [])[: wanted["count"]]
        reason = _mismatch(wanted, members, groups)
        groups.append(None if reason else members)
        if reason:
            reasons.append(reason)
    for unwanted in metadata.get("exclude", []):
        count = len(by_class.get(unwanted["class"], []))
        if count >= unwanted["count"]:
            reasons.append(f"expected {unwanted['class']}<{unwanted['count']}, found {count}")
    return EvalResult(not reasons, "\n".join(reasons))


def _mismatch(
    wanted: Include, members: list[Detection], groups: list[list[Detection] | None]
) -> str | None:
    """Return how one wanted group fails, or None if it does not."""
    cls, count = wanted["class"], wanted["count"]
    if len(members) < count:
        return f"expected {cls}>={count}, found {len(members)}"
    if "color" in wanted:
        colors = [item.color for item in members]
        if colors.count(wanted["color"]) < count:
            return f"expected {wanted['color']} {cls}>={count}, found {', '.join(colors)}"
    if "position" in wanted:
        relation, index = wanted["position"]
        targets = groups[index]
        if targets is None:
            return f"no target for {cls} to be {relation}"
        for item in members:
            for target in targets:
                held = relations(item.box, target.box)
                if relation not in held:
                    seen = " and ".join(held) or "level with"
                    return f"expected {cls} {relation} target, found {seen} target"
    return None


def nano_eval_prompts(
    seed: int, per_task: int, size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """Return held-out requests, `per_task` for each of the six tasks.

    Args:
        seed: Chooses the set; the same seed gives the same set.
        per_task: Requests per task.
        size: Width and height of all scenes; None uses varying training sizes.

    Returns:
        GenEval metadata with a "prompt" in GenEval's wording, the "dense" caption of a scene that
        fulfils it, and that scene's "width" and "height".
    """
    if seed < 0 or per_task < 1:
        raise ParameterError(f"seed {seed} must be >= 0 and per_task {per_task} >= 1")
    out: list[dict[str, Any]] = []
    for number, task in enumerate(TASKS):
        for index in range(per_task):
            rng = np.random.default_rng([HELD_OUT, seed, number, index])
            scene = sample_scene(rng, task, size)
            request = request_for(scene, rng)
            out.append(
                {
                    **request,
                    "prompt": canonical_prompt(request),
                    "dense": dense_caption(scene, rng),
                    "width": scene.width,
                    "height": scene.height,
                }
            )
    return out


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion."""
    if not 0 <= correct <= total or total == 0:
        raise ParameterError(f"{correct} of {total} is no share")
    z2 = CONFIDENCE_Z**2
    share = correct / total
    centre = share + z2 / (2 * total)
    spread = CONFIDENCE_Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class TaskScore(BaseModel):
    """How many pictures of one task were right."""

    model_config = ConfigDict(frozen=True)

    task: str
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of pictures that were right."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.total)


class NanoEvalReport(BaseModel):
    """Accuracies of one model on NanoEval.

    Attributes:
        tasks: One score per task, in GenEval's order.
        settings: What made the pictures, such as steps, guidance and checkpoint.
    """

    model_config = ConfigDict(frozen=True)

    tasks: tuple[TaskScore, ...]
    settings: dict[str, str | int | float] = {}

    @classmethod
    def from_results(
        cls,
        results: Iterable[tuple[str, EvalResult]],
        settings: Mapping[str, str | int | float] | None = None,
    ) -> NanoEvalReport:
        """Count results given as pairs of task and result."""
        counts: dict[str, list[int]] = {}
        for task, result in results:
            if task not in TASKS:
                raise ParameterError(f"task {task!r} is none of {', '.join(TASKS)}")
            tally = counts.setdefault(task, [0, 0])
            tally[0] += result.correct
            tally[1] += 1
        if not counts:
            raise ParameterError("a report needs at least one result")
        scores = tuple(
            TaskScore(task=task, correct=counts[task][0], total=counts[task][1])
            for task in TASKS
            if task in counts
        )
        return cls(tasks=scores, settings=dict(settings or {}))

    @property
    def overall(self) -> float:
        """Mean of the tasks' accuracies, as GenEval has it, not the mean over pictures."""
        return sum(score.accuracy for score in self.tasks) / len(self.tasks)

    @property
    def overall_interval(self) -> tuple[float, float]:
        """95 % interval of the overall accuracy, from the tasks' Wilson intervals.

        The method of variance estimates recovery (Zou and Donner, 2008, doi:10.1002/sim.3095): the
        tasks' distances to the ends of their intervals add up as squares.
        """
        below = above = 0.0
        for score in self.tasks:
            low, high = score.interval
            below += (score.accuracy - low) ** 2
            above += (high - score.accuracy) ** 2
        count, mean = len(self.tasks), self.overall
        return mean - math.sqrt(below) / count, mean + math.sqrt(above) / count

    def to_markdown(self) -> str:
        """Return a table of accuracies with 95 % intervals."""
        lines = ["| task | correct | accuracy | 95 % interval |", "|---|---:|---:|---:|"]
        for score in self.tasks:
            low, high = score.interval
            lines.append(
                f"| {score.task} | {score.correct} / {score.total} "
                f"| {score.accuracy:.3f} | {low:.3f} to {high:.3f} |"
            )
        named = "overall" if len(self.tasks) == len(TASKS) else f"mean of {len(self.tasks)} tasks"
        low, high = self.overall_interval
        lines.append(f"| **{named}** | | **{self.overall:.3f}** | {low:.3f} to {high:.3f} |")
        if self.settings:
            told = ", ".join(f"{name} {value}" for name, value in self.settings.items())
            lines.extend(["", told])
        return "\n".join(lines)
