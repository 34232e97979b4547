"""Integration of the guided velocity from noise, or from a noisy picture, to data."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from lens_core.denoising import Denoiser
from lens_core.pipeline_inputs import check_finite
from lens_core.sampling import chosen_mu
from lens_core.solvers import Solver
from lens_core.starting_points import KeptRegion


@dataclass(frozen=True)
class StepOutcome:
    """What is known after a step.

    Attributes:
        index: Steps done before this one.
        total: Steps that are run.
        timestep: Of the step, the scheduler's: a scalar from 0 to 1000.
        sigma: The noise level that was reached.
        latents: Tokens `[B, tokens, channels]` at that level.
        velocity: The direction that led there, same shape; Euler's is the guided velocity.
        kept: What is not sampled, if anything.
    """

    index: int
    total: int
    timestep: Tensor
    sigma: float
    latents: Tensor
    velocity: Tensor
    kept: KeptRegion | None

    def estimate(self) -> Tensor:
        """The latents without the noise that is left, by going on in a straight line."""
        clean = self.latents - self.sigma * self.velocity
        return clean if self.kept is None else self.kept.held(clean, 0.0)


AfterStep = Callable[[StepOutcome], tuple[Tensor, bool]]
"""Told each step's outcome; gives the latents to go on with, and whether to go on."""


def set_schedule(
    scheduler: FlowMatchEulerDiscreteScheduler,
    tokens: int,
    levels: np.ndarray,
    shift: float | None,
    device: torch.device,
) -> None:
    """Lay out the shifted noise levels of all steps in the scheduler.

    Args:
        scheduler: Its `sigmas` become `[steps + 1]`, its `timesteps` `[steps]`.
        tokens: Image tokens of each picture.
        levels: Before the shift, one per step of the full schedule, also where sampling enters it
            later.
        shift: The time shift; None is Lens's own.
        device: Where sampling runs.
    """
    scheduler.set_timesteps(sigmas=levels, mu=chosen_mu(tokens, len(levels), shift), device=device)


def integrate(
    scheduler: FlowMatchEulerDiscreteScheduler,
    denoiser: Denoiser,
    latents: Tensor,
    begin: int,
    solver: Solver,
    kept: KeptRegion | None,
    after_step: AfterStep,
) -> Tensor:
    """Latents after the last step, or after the one that `after_step` ended with.

    Args:
        scheduler: With the schedule set.
        denoiser: Gives the guided velocity.
        latents: Tokens `[B, tokens, channels]` at noise level `sigmas[begin]`.
        begin: Steps of the schedule that are left out.
        solver: Of these steps, without earlier ones.
        kept: Tokens that follow a given picture instead.
        after_step: Told each step's outcome.

    Raises:
        NonFiniteError: NaN or infinity in the latents; names the step.
    """
    timesteps, levels = scheduler.timesteps[begin:], scheduler.sigmas[begin:].tolist()
    scheduler.set_begin_index(begin)
    denoiser.prepare(timesteps)
    finite = []
    for index, timestep in enumerate(timesteps):
        scale = denoiser.guidance_scale
        velocity = denoiser.velocity(latents, timestep)
        velocity = solver.direction(index, latents, velocity, scale)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        sigma = levels[index + 1]
        if kept is not None:
            latents = kept.held(latents, sigma)
        state = StepOutcome(index, len(timesteps), timestep, sigma, latents, velocity, kept)
        latents, goes_on = after_step(state)
        finite.append(torch.isfinite(latents).all())
        if not goes_on:
            break
    check_finite(finite, scheduler.sigmas[begin:])
    return latents
