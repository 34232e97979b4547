"""Learning rates and averages shared by the training stages."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lens_core.training.config import StageConfig


def rate_factor(step: int, config: StageConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / config.decay_steps if config.decay_steps else 1.0
    return warm * min(1.0, left)


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's `peak` learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


@torch.no_grad()
def update_average(average: list[Tensor], current: list[Tensor], decay: float, step: int) -> None:
    """Exponential moving average in place; early steps use the shorter memory `(1+n)/(10+n)`."""
    effective = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(average, current, 1 - effective)
