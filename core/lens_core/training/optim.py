"""Learning rates, averages and optimiser states shared by the training stages."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from lens_core.errors import CheckpointError
from lens_core.training.config import StageConfig

TOLERATED_SKIPS = 20
"""Updates in a row with gradients that are not finite; one more stops the run."""


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


def state_entry(
    optimizer: torch.optim.Optimizer | None, master: Tensor | None, name: str, entry: str
) -> Tensor:
    """A tensor of an optimiser's state, made if it is not there yet, to read a checkpoint into.

    Args:
        optimizer: The optimiser that updates the master; None where there is none.
        master: The weight; None if the run does not train it.
        name: Of the tensor in the checkpoint.
        entry: Of it in the optimiser's state of the master.

    Raises:
        CheckpointError: The optimiser keeps nothing of that name.
    """
    kept: tuple[str, ...] = ("momentum_buffer",)
    if isinstance(optimizer, torch.optim.AdamW):
        kept = ("step", "exp_avg", "exp_avg_sq")
    if optimizer is None or master is None or entry not in kept:
        raise CheckpointError(
            f"the training state holds {name}, which this run has no place for; give the settings "
            "it was saved with"
        )
    blank = torch.zeros(()) if entry == "step" else torch.zeros_like(master.detach())
    state = optimizer.state[cast(Any, master)]
    return cast(Tensor, state.setdefault(entry, blank))
