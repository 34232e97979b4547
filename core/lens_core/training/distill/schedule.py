"""Noise levels: the student's, which are those of inference, and the scores', drawn at random."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from lens_core.errors import ParameterError
from lens_core.noise_levels import given_sigmas, linear_sigmas
from lens_core.sampling import compute_mu, shifted_sigmas
from lens_core.training.distill.config import DistillConfig


@dataclass(frozen=True)
class StudentSchedule:
    """The few noise levels a student is made for, at one number of tokens.

    Attributes:
        mu: Time shift of inference at that many tokens and steps.
        levels: Levels before the shift, such as `1, 1 - 1/K, ..., 1/K`.
        sigmas: Levels after it, and a final 0.
        score_shift: Factor s of the shift of `full_times`; None takes `exp(mu)`.
    """

    mu: float
    levels: tuple[float, ...]
    sigmas: tuple[float, ...]
    score_shift: float | None = None

    @classmethod
    def create(
        cls, tokens: int, levels: np.ndarray, score_shift: float | None = None
    ) -> "StudentSchedule":
        """The schedule that the pipeline samples with.

        Args:
            tokens: Of a picture.
            levels: Before the shift, one per step.
            score_shift: Shift of the scores' noise levels; None takes that of inference.
        """
        mu = compute_mu(tokens, len(levels))
        sigmas = tuple(shifted_sigmas(levels, mu).tolist())
        return cls(mu, tuple(levels.tolist()), sigmas, score_shift)

    def shift(self, levels: Tensor) -> Tensor:
        """Apply the time shift of inference, whose factor is `exp(mu)`."""
        return _shifted(levels, math.exp(self.mu))

    def full_times(self, count: int, least: float, generator: Generator) -> Tensor:
        """`[count]` timesteps over the whole range, for matching, fake score and discriminator."""
        factor = math.exp(self.mu) if self.score_shift is None else self.score_shift
        return _shifted(_stratified(count, generator), factor).clamp(least, 1 - least)

    def cleaner_times(self, count: int, step: int, least: float, generator: Generator) -> Tensor:
        """`[count]` timesteps below a student step's own, for the augmentation.

        Uniform before the shift, from 0 to the step's level: what is noisier than the student's
        input is settled, and pushing there drives pictures to over-saturation.
        """
        levels = self.levels[step] * _stratified(count, generator)
        return self.shift(levels).clamp(least, 1 - least)


def student_levels(config: DistillConfig) -> np.ndarray:
    """Noise levels before the time shift, one per step of the student.

    Raises:
        ParameterError: `student_sigmas` that do not fall from 1 or are not `student_steps` many.
    """
    if not config.student_sigmas:
        return linear_sigmas(config.student_steps)
    levels = given_sigmas(config.student_sigmas, config.student_steps)
    if levels[0] != 1:
        raise ParameterError(f"student_sigmas {config.student_sigmas} must begin with 1, noise")
    return levels


def _shifted(levels: Tensor, factor: float) -> Tensor:
    """`s u / (1 + (s - 1) u)` for a factor s."""
    return factor * levels / (1 + (factor - 1) * levels)


def _stratified(count: int, generator: Generator) -> Tensor:
    """Uniform in (0, 1), one from each of `count` equal parts, in random order."""
    parts = torch.arange(count) + torch.rand(count, generator=generator)
    return (parts / count)[torch.randperm(count, generator=generator)]
