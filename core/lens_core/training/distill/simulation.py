"""Backward simulation: the student trains on inputs that it makes itself, as at inference."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lens_core.text_features import TextFeatures
from lens_core.training.distill.config import StudentSampler
from lens_core.training.distill.schedule import StudentSchedule
from lens_core.training.fields import VelocityField, add_noise, normal_like, predict_clean


@dataclass(frozen=True)
class Simulation:
    """How a student's steps are linked.

    Attributes:
        schedule: Its noise levels.
        sampler: `euler` moves along the velocity; `renoise` adds fresh noise to each prediction.
    """

    schedule: StudentSchedule
    sampler: StudentSampler

    @torch.no_grad()
    def reach(
        self,
        field: VelocityField,
        noise: Tensor,
        text: TextFeatures | None,
        step: int,
        generator: Generator,
    ) -> Tensor:
        """The student's input `[B, N, C]` at a step, from noise through its own earlier steps."""
        latents = noise
        for index in range(step):
            now, following = self.schedule.sigmas[index], self.schedule.sigmas[index + 1]
            velocity = field(latents, _times(latents, now), text)
            if self.sampler == "euler":
                latents = latents + (following - now) * velocity
            else:
                clean = predict_clean(latents, _times(latents, now), velocity)
                fresh = normal_like(latents, generator)
                latents = add_noise(clean, _times(latents, following), fresh)
        return latents

    def predict(
        self, field: VelocityField, latents: Tensor, text: TextFeatures | None, step: int
    ) -> Tensor:
        """The clean latents that the student sees in its input at a step."""
        timesteps = _times(latents, self.schedule.sigmas[step])
        return predict_clean(latents, timesteps, field(latents, timesteps, text))


def _times(latents: Tensor, sigma: float) -> Tensor:
    return torch.full((len(latents),), sigma, device=latents.device)
