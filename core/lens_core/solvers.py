"""How noise levels are integrated over: Euler, and second-order multistep.

A solver turns the velocity at a noise level into the direction of the step to the next level, so
that every sampler takes the same step, `latents + (following - sigma) * direction`.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor

from lens_core.errors import ParameterError

SolverName = Literal["euler", "dpmpp_2m"]
"""`euler` is what Lens was published with; `dpmpp_2m` needs about half as many steps."""


class Solver(Protocol):
    """Integrates the velocity of one batch; has to be asked for every step, in order."""

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """Where to step, in place of the velocity and in the same shape.

        Args:
            step: Steps done before this one.
            latents: `[..., channels]` at this step's noise level.
            velocity: The model's at these latents, guidance included, same shape.
            guidance_scale: The guidance that is included.
        """
        ...


class EulerSolver:
    """First order: along the velocity."""

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """See `Solver.direction`."""
        return velocity


class MultistepSolver:
    """DPM-Solver++(2M) (arXiv 2211.01095) for flow matching: second order, one call a step.

    There alpha is `1 - sigma` and lambda `log(alpha / sigma)`. What the step before predicted as
    clean latents extrapolates the prediction of this one, unless the guidance changed in between.

    Args:
        sigmas: Falling noise levels `[steps + 1]` of the steps that are taken.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._orders = multistep_orders(len(sigmas) - 1)
        self._before: tuple[Tensor, float] | None = None

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """See `Solver.direction`."""
        sigma = self._sigmas[step]
        clean = latents - sigma * velocity
        before, self._before = self._before, (clean, guidance_scale)
        if before is None or before[1] != guidance_scale or self._orders[step] == 1:
            return velocity
        last, now, following = (_lambda(one) for one in self._sigmas[step - 1 : step + 2])
        ratio = (now - last) / (following - now)
        return velocity - (clean - before[0]) / (2 * ratio * sigma)


def make_solver(name: SolverName, sigmas: Sequence[float]) -> Solver:
    """The solver of one batch.

    Args:
        name: Which.
        sigmas: Falling noise levels `[steps + 1]` of the steps that are taken.
    """
    return EulerSolver() if name == "euler" else MultistepSolver(sigmas)


def read_solver(given: object) -> SolverName:
    """The name of a solver; None is Euler's.

    Raises:
        ParameterError: There is none of that name.
    """
    for name in get_args(SolverName):
        if given == name:
            return name  # type: ignore[no-any-return]
    if given is None:
        return "euler"
    raise ParameterError(f"solver {given!r} must be one of {', '.join(get_args(SolverName))}")


def multistep_orders(steps: int) -> tuple[int, ...]:
    """Order of every step of `MultistepSolver`.

    The first and the last are first order and, of less than 15 steps, the last but one, as in the
    published DiffusionNFT.
    """
    first_order = {0, steps - 1} | ({steps - 2} if steps < 15 else set())
    return tuple(1 if step in first_order else 2 for step in range(steps))


def _lambda(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
