"""Noise levels before the time shift, one per step."""

from collections.abc import Sequence

import numpy as np

from lens_core.errors import ParameterError


def linear_sigmas(steps: int) -> np.ndarray:
    """Return evenly spaced noise levels: `linspace(1, 1 / steps, steps)`."""
    if steps < 1:
        raise ParameterError(f"num_inference_steps {steps} must be at least 1")
    return np.linspace(1.0, 1.0 / steps, steps)


def given_sigmas(levels: Sequence[float], steps: int | None) -> np.ndarray:
    """Check noise levels given by the caller and return them as a float64 array.

    Args:
        levels: Decreasing values in (0, 1], one per step, without the final 0.
        steps: The number of steps, if the caller gave one as well.

    Raises:
        ParameterError: The levels do not decrease within (0, 1], or `steps` differs from their
            number.
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
