"""Integration of a velocity field from noise to data: Euler, and second-order multistep.

The second-order solver is DPM-Solver++(2M) (arXiv 2211.01095) written for flow matching, where
alpha is 1 - sigma and lambda is log(alpha / sigma).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lens_core.errors import ParameterError
from lens_core.text_features import TextFeatures
from lens_core.training.fields import VelocityField, predict_clean

Solver = Literal["euler", "dpm2"]


def solver_orders(solver: Solver, steps: int) -> tuple[int, ...]:
    """Order of every step.

    Euler is first order throughout. `dpm2` is second order but in its first and last step and, of
    less than 15 steps, the last but one, as in the published DiffusionNFT.
    """
    if steps < 1:
        raise ParameterError(f"steps {steps} must be at least 1")
    if solver == "euler":
        return (1,) * steps
    first_order = {0, steps - 1} | ({steps - 2} if steps < 15 else set())
    return tuple(1 if step in first_order else 2 for step in range(steps))


@torch.no_grad()
def integrate(
    field: VelocityField,
    noise: Tensor,
    text: TextFeatures | None,
    sigmas: Sequence[float],
    solver: Solver,
) -> Tensor:
    """Clean latents, float32 `[B, N, C]`.

    Args:
        field: Velocity field; put guidance into it.
        noise: `[B, N, C]` at `sigmas[0]`.
        text: Features of B prompts.
        sigmas: Falling noise levels, the last of them 0.
        solver: How to integrate.
    """
    latents, previous = noise.float(), None
    orders = solver_orders(solver, len(sigmas) - 1)
    for step, order in enumerate(orders):
        now, following = sigmas[step], sigmas[step + 1]
        timesteps = torch.full((len(latents),), now, device=latents.device)
        clean = predict_clean(latents, timesteps, field(latents, timesteps, text))
        target = clean
        if order == 2 and previous is not None:
            ratio = (_lambda(now) - _lambda(sigmas[step - 1])) / (_lambda(following) - _lambda(now))
            target = clean + (clean - previous) / (2 * ratio)
        kept = following / now
        latents = kept * latents + (1 - following - (1 - now) * kept) * target
        previous = clean
    return latents


def _lambda(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
