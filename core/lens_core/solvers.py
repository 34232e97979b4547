"""How the velocity is integrated over the noise levels: Euler, and two second-order solvers.

A solver turns the velocity at a noise level into the direction of the step to the next one, so that
every step is `latents + (following - sigma) * direction`.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor

from lens_core.errors import ParameterError

SolverName = Literal["euler", "dpmpp_2m", "ab2"]
"""`euler` is what Lens was published with; the others are second order and need fewer steps."""


class Solver(Protocol):
    """Integrates the velocity of one batch. Call it for every step, in order."""

    def direction(
        self, step: int, latents: Tensor, velocity: Tensor, guidance_scale: float
    ) -> Tensor:
        """The direction to step in, same shape as the velocity.

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


class _Before:
    """What the step before left behind, unless the guidance changed in between."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, float] | None = None

    def exchange(self, value: Tensor, guidance_scale: float) -> Tensor | None:
        kept, self._kept = self._kept, (value, guidance_scale)
        return kept[0] if kept is not None and kept[1] == guidance_scale else None


class AdamsBashforthSolver:
    """Adams-Bashforth of second order: the velocity, extrapolated linearly to half the step.

    Second order in the last step too, where it overshoots if that step is much longer than the one
    before: of few steps, take a `shift` of about 3 with it. (ComfyUI has it as `ipndm_v`, with
    `max_order` 2.)

    Args:
        sigmas: Falling noise levels `[steps + 1]` of the steps that are taken.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._before = _Before()

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
    """DPM-Solver++(2M) (arXiv 2211.01095) for flow matching: second order, one call per step.

    For flow matching, alpha is `1 - sigma` and lambda is `log(alpha / sigma)`. The prediction of
    the clean latents is extrapolated from the one before.

    Args:
        sigmas: Falling noise levels `[steps + 1]` of the steps that are taken.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._orders = multistep_orders(len(sigmas) - 1)
        self._before = _Before()

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
    """The solver of one batch.

    Args:
        name: Which.
        sigmas: Falling noise levels `[steps + 1]` of the steps that are taken.
    """
    if name == "euler":
        return EulerSolver()
    return MultistepSolver(sigmas) if name == "dpmpp_2m" else AdamsBashforthSolver(sigmas)


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
