"""Noise levels: the student's, which are those of inference, and the scores', drawn at random."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lens_core.sampling import compute_mu, linear_sigmas, make_sigmas


@dataclass(frozen=True)
class StudentSchedule:
    """The few noise levels a student is made for, at one number of tokens.

    Attributes:
        mu: Time shift of inference at that many tokens and steps.
        levels: Levels before the shift, `1, 1 - 1/K, ..., 1/K`.
        sigmas: Levels after it, and a final 0.
    """

    mu: float
    levels: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def create(cls, tokens: int, steps: int) -> "StudentSchedule":
        """The schedule that the pipeline samples with."""
        mu = compute_mu(tokens, steps)
        sigmas = make_sigmas(steps, mu).tolist()
        return cls(mu, tuple(linear_sigmas(steps).tolist()), tuple(sigmas))

    def shift(self, levels: Tensor) -> Tensor:
        """Apply the time shift `s u / (1 + (s - 1) u)` with `s = exp(mu)`."""
        factor = math.exp(self.mu)
        return factor * levels / (1 + (factor - 1) * levels)

    def full_times(self, count: int, least: float, generator: Generator) -> Tensor:
        """`[count]` timesteps over the whole range, for matching, fake score and discriminator."""
        return self.shift(_stratified(count, generator)).clamp(least, 1 - least)

    def cleaner_times(self, count: int, step: int, least: float, generator: Generator) -> Tensor:
        """`[count]` timesteps below a student step's own, for the augmentation.

        Uniform before the shift, from 0 to the step's level: what is noisier than the student's
        input is settled, and pushing there drives pictures to over-saturation.
        """
        levels = self.levels[step] * _stratified(count, generator)
        return self.shift(levels).clamp(least, 1 - least)


def _stratified(count: int, generator: Generator) -> Tensor:
    """Uniform in (0, 1), one from each of `count` equal parts, in random order."""
    parts = torch.arange(count) + torch.rand(count, generator=generator)
    return (parts / count)[torch.randperm(count, generator=generator)]
