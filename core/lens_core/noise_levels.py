"""Noise levels before the time shift, one for each step."""

from collections.abc import Sequence

import numpy as np

from lens_core.errors import ParameterError


def linear_sigmas(steps: int) -> np.ndarray:
    """Noise levels before the shift: `linspace(1, 1 / steps, steps)`."""
    if steps < 1:
        raise ParameterError(f"num_inference_steps {steps} must be at least 1")
    return np.linspace(1.0, 1.0 / steps, steps)


def given_sigmas(levels: Sequence[float], steps: int | None) -> np.ndarray:
    """Noise levels before the shift that a caller chose, one per step.

    Args:
        levels: From at most 1 down, each above 0; the final 0 is not among them.
        steps: The caller's number of steps, if there was one besides.

    Raises:
        ParameterError: Levels that do not fall from 1 to 0, or another number of steps.
    """
    try:
        chosen = np.asarray(levels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"sigmas {levels!r} must be a list of numbers") from error
    falls = chosen.ndim == 1 and len(chosen) and bool((np.diff(chosen) < 0).all())
    if not falls or not 0 < chosen[-1] <= chosen[0] <= 1:
        raise ParameterError(
            f"sigmas {levels!r} must be numbers that fall from at most 1 and stay above 0: the "
            "noise levels before the time shift; the final 0 is added"
        )
    if steps is not None and steps != len(chosen):
        raise ParameterError(
            f"num_inference_steps {steps} and {len(chosen)} sigmas contradict each other"
        )
    return chosen
