"""Scores of held-out prompts, drawn as inference draws: Euler steps, with and without guidance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lens_core.nano.evaluation import wilson_interval
from lens_core.training.config import Size
from lens_core.training.fields import GuidedField, VelocityField, take
from lens_core.training.prompts import Prompt
from lens_core.training.renderer import Renderer
from lens_core.training.rewards import RewardQueue, Score
from lens_core.training.seeds import seeded
from lens_core.training.solvers import integrate
from lens_core.training.workers import Workers

_NOISE = 17


@dataclass(frozen=True)
class Validation:
    """Fixed prompts, sizes and noise.

    Attributes:
        renderer: Encodes and decodes.
        queue: Scores.
        prompts: The held-out prompts.
        sizes: Picture sizes, taken in turn.
        seed: Seed of the noise.
        batch_size: Pictures drawn at once.
        workers: Share the pictures.
    """

    renderer: Renderer
    queue: RewardQueue
    prompts: list[Prompt]
    sizes: tuple[Size, ...]
    seed: int
    batch_size: int
    workers: Workers

    def run(
        self, field_of: Callable[[Size], VelocityField], levels: np.ndarray, guidance_scale: float
    ) -> dict[str, float | list[float]]:
        """Draw every prompt once and report the scores.

        Args:
            field_of: The denoiser at a picture size.
            levels: Noise levels before the time shift, one per step.
            guidance_scale: Classifier-free guidance; 1 is none.

        Returns:
            `reward` with its standard error `error`, `strict` with its 95 % `interval` where the
            reward tells, and `scored`, the number of pictures they rest on.
        """
        for rows, mine in self.workers.deal(self._batches()):
            size = self.sizes[rows[0] % len(self.sizes)]
            noise = self.renderer.noise(size, [seeded(self.seed, _NOISE, row) for row in rows])
            text = take(
                self.renderer.features([self.prompts[row].text for row in rows]), range(len(rows))
            )
            latents = integrate(
                GuidedField(field_of(size), guidance_scale),
                noise,
                text,
                self.renderer.sigmas(size, levels),
                "euler",
            )
            if not mine:
                continue
            for row, picture in zip(rows, self.renderer.pictures(latents, size), strict=True):
                self.queue.submit(row, picture, self.prompts[row])
        scores: dict[int, Score | None] = {}
        for part in self.workers.gather(self.queue.collect().by_index):
            scores |= part
        return summary(scores)

    def _batches(self) -> list[list[int]]:
        batches = []
        for number in range(len(self.sizes)):
            rows = list(range(number, len(self.prompts), len(self.sizes)))
            batches += [
                rows[start : start + self.batch_size]
                for start in range(0, len(rows), self.batch_size)
            ]
        return batches


def summary(scores: Mapping[int, Score | None]) -> dict[str, float | list[float]]:
    """Mean and standard error of the scores there are, and the share that is right throughout."""
    known = [score for _, score in sorted(scores.items()) if score is not None]
    if not known:
        return {"scored": 0.0}
    values = [score.value for score in known]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    report: dict[str, float | list[float]] = {
        "reward": round(mean, 4),
        "error": round(math.sqrt(variance / len(values)), 4),
        "scored": float(len(values)),
    }
    if all("strict" in score.parts for score in known):
        right = round(sum(score.parts["strict"] for score in known))
        report["strict"] = round(right / len(known), 4)
        report["interval"] = [round(end, 4) for end in wilson_interval(right, len(known))]
    return report
