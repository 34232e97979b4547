"""Integration of a velocity field from noise to data."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lens_core.solvers import SolverName, make_solver
from lens_core.text_features import TextFeatures
from lens_core.training.fields import VelocityField


@torch.no_grad()
def integrate(
    field: VelocityField,
    noise: Tensor,
    text: TextFeatures | None,
    sigmas: Sequence[float],
    solver: SolverName,
) -> Tensor:
    """Clean latents, float32 `[B, N, C]`.

    Args:
        field: Velocity field; put guidance into it.
        noise: `[B, N, C]` at `sigmas[0]`.
        text: Features of B prompts.
        sigmas: Falling noise levels, the last of them 0.
        solver: How to integrate.
    """
    latents, solve = noise.float(), make_solver(solver, sigmas)
    for step, (now, following) in enumerate(pairwise(sigmas)):
        timesteps = torch.full((len(latents),), now, device=latents.device)
        velocity = field(latents, timesteps, text)
        direction = solve.direction(step, latents, velocity, guidance_scale=1.0)
        latents = latents + (following - now) * direction
    return latents
