"""Integration of the guided velocity from noise, or from a noisy image, to data."""

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
    """State after a step.

    Attributes:
        index: Index of the step, from 0.
        total: Number of steps to run.
        timestep: The scheduler's timestep for this step: a scalar from 0 to 1000.
        sigma: Noise level reached.
        latents: Tokens `[B, tokens, channels]` at that level.
        velocity: Direction of the step, same shape; with Euler, the guided velocity.
        kept: Region that is not sampled, if any.
    """

    index: int
    total: int
    timestep: Tensor
    sigma: float
    latents: Tensor
    velocity: Tensor
    kept: KeptRegion | None

    def estimate(self) -> Tensor:
        """Estimate the clean latents by extrapolating in a straight line to sigma 0."""
        clean = self.latents - self.sigma * self.velocity
        return clean if self.kept is None else self.kept.held(clean, 0.0)


AfterStep = Callable[[StepOutcome], tuple[Tensor, bool]]
"""Called with each step's outcome; returns the latents to continue with and whether to continue."""


def set_schedule(
    scheduler: FlowMatchEulerDiscreteScheduler,
    tokens: int,
    levels: np.ndarray,
    shift: float | None,
    device: torch.device,
) -> None:
    """Set the scheduler's shifted noise levels for all steps.

    Args:
        scheduler: Its `sigmas` become `[steps + 1]`, its `timesteps` `[steps]`.
        tokens: Number of tokens per image.
        levels: Noise levels before the shift, one per step of the full schedule, even if sampling
            starts partway through it.
        shift: The time shift; None uses Lens's rule.
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
    """Run the steps of the schedule, until the last or until `after_step` stops.

    Args:
        scheduler: A scheduler whose schedule is set.
        denoiser: Computes the guided velocity.
        latents: Tokens `[B, tokens, channels]` at noise level `sigmas[begin]`.
        begin: Number of initial schedule steps to skip.
        solver: A fresh solver for the remaining steps.
        kept: Tokens that follow the starting image instead of being sampled.
        after_step: Called with each step's outcome.

    Returns:
        The latents after the last step run, same shape.

    Raises:
        NonFiniteError: The latents contain NaN or infinity; names the step.
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
