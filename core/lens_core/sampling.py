"""The noise schedule and guidance of Lens: shifted flow-matching sigmas."""

import math

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from lens_core.errors import ComponentError, ParameterError
from lens_core.noise_levels import linear_sigmas


def compute_mu(tokens: int, steps: int) -> float:
    """Return the time-shift parameter mu for a number of image tokens and steps.

    This is FLUX.2's empirical rule. Above 4300 tokens mu depends on the tokens alone; otherwise it
    is linear in `steps`, through the values fitted at 10 and 200 steps.
    """
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)


def chosen_mu(tokens: int, steps: int, shift: float | None) -> float:
    """Return mu for a schedule: from `compute_mu`, or from a shift the caller chose.

    Args:
        tokens: Number of image tokens.
        steps: Number of steps in the full schedule.
        shift: `s` in `sigma = s * level / (1 + (s - 1) * level)`, equal to `exp(mu)`; None uses
            `compute_mu`.
    """
    return compute_mu(tokens, steps) if shift is None else math.log(shift)


def read_shift(given: object) -> float | None:
    """Check a shift given by the caller; None means Lens's rule.

    Raises:
        ParameterError: It is not a positive number below 10,000.
    """
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e4:
        raise ParameterError(
            f"shift {given!r} must be a positive number: 1 spaces noise levels evenly, more spends "
            "more steps on noise; leave it out for Lens's own, which depends on size and steps"
        )
    return float(given)


def make_sigmas(steps: int, mu: float) -> Tensor:
    """Shift evenly spaced levels, from 1 (noise), and append a 0: float32 `[steps + 1]`."""
    return shifted_sigmas(linear_sigmas(steps), mu)


def shifted_sigmas(levels: np.ndarray, mu: float) -> Tensor:
    """Apply the time shift to noise levels and append a final 0: float32 `[steps + 1]`.

    Args:
        levels: Noise levels before the shift, one per step.
        mu: Time-shift parameter.
    """
    scheduler = default_scheduler()
    scheduler.set_timesteps(sigmas=levels, mu=mu)
    sigmas: Tensor = scheduler.sigmas
    return sigmas


def default_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the Euler scheduler with exponential time shift of the published checkpoints.

    The shift constants in that configuration have no effect because mu is always passed.
    """
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )


def check_scheduler(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    """Check that a scheduler applies mu the way Lens needs.

    Raises:
        ComponentError: The class differs, or its configuration would change the sigmas.
    """
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise ComponentError(
            f"scheduler {type(scheduler).__name__} is not a FlowMatchEulerDiscreteScheduler, the "
            "only one Lens takes; for second-order steps, call the pipeline with solver='dpmpp_2m'"
        )
    expected = {
        "num_train_timesteps": 1000,
        "use_dynamic_shifting": True,
        "time_shift_type": "exponential",
        "shift_terminal": None,
        "invert_sigmas": False,
        "stochastic_sampling": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }
    for name, value in expected.items():
        found = scheduler.config.get(name, value)
        if (found or None) != (value or None):
            raise ComponentError(f"scheduler config has {name}={found!r}; Lens needs {value!r}")


def guide(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """Apply classifier-free guidance and keep the norm of the conditional velocity.

    Args:
        cond: Velocity with the prompt, `[B, tokens, channels]`.
        uncond: Velocity without a prompt or with the negative prompt, same shape.
        guidance_scale: `g` in `uncond + g * (cond - uncond)`.

    Returns:
        The combination, with each token rescaled to the L2 norm of `cond` over channels.
    """
    combined = uncond + guidance_scale * (cond - uncond)
    length = torch.linalg.vector_norm(cond, dim=-1, keepdim=True)
    combined_length = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
    rescaled: Tensor = combined * (length / combined_length.clamp_min(1e-12))
    return rescaled
