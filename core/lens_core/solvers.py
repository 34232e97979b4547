"""ODE solvers for sampling: Euler and two second-order methods.

A solver turns the velocity at a noise level into the direction of the step to the next level. Every
step is `latents + (following - sigma) * direction`.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, cast, get_args

from torch import Tensor

from lens_core.errors import ParameterError

SolverName = Literal["euler", "dpmpp_2m", "ab2"]
"""Lens was published with `euler`; the others are second order and need fewer steps."""


class Solver(Protocol):
    """Integrates the velocity of one batch. Call `direction` for every step, in order."""

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """Return the direction of the step, same shape as the velocity.

        Args:
            step: Index of the step, from 0.
            latents: `[..., channels]` at this step's noise level.
            velocity: The model's velocity at these latents, with guidance applied, same shape.
            guidance_scale: The guidance scale applied.
        """
        ...


class EulerSolver:
    """First order: steps along the velocity."""

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """See `Solver.direction`."""
        return velocity


class _Previous:
    """The previous step's value, discarded if the guidance scale has changed since."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, float] | None = None

    def exchange(self, value: Tensor, guidance_scale: float) -> Tensor | None:
        kept, self._kept = self._kept, (value, guidance_scale)
        return kept[0] if kept is not None and kept[1] == guidance_scale else None


class AdamsBashforthSolver:
    """Second-order Adams-Bashforth: extrapolates the velocity linearly to the middle of the step.

    The last step is second order too and overshoots if it is much longer than the one before. With
    few steps, use a `shift` of about 3. ComfyUI calls this solver `ipndm_v` with `max_order` 2.

    Args:
        sigmas: Decreasing noise levels `[steps + 1]` of the steps to run.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._before = _Previous()

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """See `Solver.direction`."""
        before = self._before.exchange(velocity, guidance_scale)
        if before is None:
            return velocity
        last, now, following = self._sigmas[step - 1 : step + 2]
        return velocity + (velocity - before) * ((following - now) / (now - last) / 2)


class MultistepSolver:
    """DPM-Solver++(2M) (arXiv 2211.01095) for flow matching: second order, one model call per step.

    For flow matching, alpha is `1 - sigma` and lambda is `log(alpha / sigma)`. The prediction of
    the clean latents is extrapolated using the previous one.

    Args:
        sigmas: Decreasing noise levels `[steps + 1]` of the steps to run.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._orders = multistep_orders(len(sigmas) - 1)
        self._before = _Previous()

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """See `Solver.direction`."""
        sigma = self._sigmas[step]
        clean = latents - sigma * velocity
        before = self._before.exchange(clean, guidance_scale)
        if before is None or self._orders[step] == 1:
            return velocity
        last, now, following = (_lambda(one) for one in self._sigmas[step - 1 : step + 2])
        ratio = (now - last) / (following - now)
        return velocity - (clean - before) / (2 * ratio * sigma)


def make_solver(name: SolverName, sigmas: Sequence[float]) -> Solver:
    """Create the solver for one batch.

    Args:
        name: Name of the solver.
        sigmas: Decreasing noise levels `[steps + 1]` of the steps to run.
    """
    if name == "euler":
        return EulerSolver()
    return MultistepSolver(sigmas) if name == "dpmpp_2m" else AdamsBashforthSolver(sigmas)


def read_solver(given: object) -> SolverName:
    """Check the name of a solver; None means `euler`.

    Raises:
        ParameterError: The name is unknown.
    """
    if given is None:
        return "euler"
    if given not in get_args(SolverName):
        raise ParameterError(f"solver {given!r} must be one of {', '.join(get_args(SolverName))}")
    return cast(SolverName, given)


def multistep_orders(steps: int) -> tuple[int, ...]:
    """Return the order `MultistepSolver` uses at each step.

    The first and last steps are first order. With fewer than 15 steps, so is the second to last, as
    in the published DiffusionNFT.
    """
    first_order = {0, steps - 1} | ({steps - 2} if steps < 15 else set())
    return tuple(1 if step in first_order else 2 for step in range(steps))


def _lambda(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
