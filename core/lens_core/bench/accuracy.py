"""Numerical accuracy of a speed plan, relative to the rounding error of bfloat16 itself."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_core.speed.accelerate import accelerate_transformer
from lens_core.speed.plan import PLAIN, SpeedPlan
from lens_core.transformer import LensTransformer2DModel

Run = Callable[[LensTransformer2DModel], Tensor]
"""One forward pass."""


@dataclass(frozen=True)
class Accuracy:
    """Relative L2 distances from the plain path in float32, with the same weights.

    Attributes:
        plain: Distance of the plain path in bfloat16.
        error: Distance of the plan in bfloat16.
    """

    plain: float
    error: float

    @property
    def factor(self) -> float:
        """Ratio of the plan's error to that of rounding alone."""
        return self.error / self.plain


@torch.no_grad()
def measure_accuracy(
    transformer: LensTransformer2DModel, plan: SpeedPlan, run: Run, warm_up: int = 2
) -> Accuracy:
    """Compare a plan's forward pass in bfloat16 with the plain one.

    Args:
        transformer: A plain transformer; it is not changed.
        plan: The plan.
        run: Computes a velocity.
        warm_up: Calls of the plan before the measured one, as graphs are replayed from the third
            call on.

    Raises:
        ComponentError: The plan cannot be applied on this machine.
    """
    rounded = copy.deepcopy(transformer).to(torch.bfloat16)
    accelerate_transformer(rounded, PLAIN)
    plain = run(rounded).float()
    exact = run(copy.deepcopy(rounded).float())
    accelerate_transformer(rounded, plan)
    for _ in range(warm_up):
        run(rounded)
    found = run(rounded).float()
    return Accuracy(_distance(plain, exact), _distance(found, exact))


def _distance(found: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(found.double() - expected.double())
    return float(difference / torch.linalg.vector_norm(expected.double()))
