"""From rewards to targets in [0, 1]: normalised by group, clipped, missing ones left out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What the rewards of a step ask for.

    Attributes:
        values: `[images]` in [0, 1], 0.5 where a picture is as good as its group, or unscored.
        known: `[images]`, False where there is no reward; such a picture is not trained on.
        mean: Mean reward.
        spread: Standard deviation of all rewards.
        flat_groups: Share of groups whose rewards are all the same.
    """

    values: Tensor
    known: Tensor
    mean: float
    spread: float
    flat_groups: float


def reward_targets(
    rewards: Tensor,
    images_per_prompt: int,
    clip: float,
    spread: Literal["step", "group"] = "step",
) -> Targets:
    """Map rewards to targets.

    `advantage = (reward - mean of its group) / (standard deviation + 1e-4)`, then
    `0.5 + 0.5 * clamp(advantage / clip, -1, 1)`. Deviations are of the population, as in the
    published code.

    Args:
        rewards: `[images]`, the pictures of one prompt after each other; NaN where missing.
        images_per_prompt: Pictures per prompt.
        clip: Advantage that maps to 1.
        spread: Take the standard deviation of the whole step, or of each group.
    """
    groups = rewards.double().reshape(-1, images_per_prompt)
    known = ~groups.isnan()
    filled = groups.nan_to_num()
    counts = known.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(known, filled - filled.sum(1, keepdim=True) / counts, 0.0)
    of_groups = (centred.square().sum(1, keepdim=True) / counts).sqrt()
    scored = groups[known]
    of_step = scored.std(correction=0) if len(scored) else torch.zeros((), dtype=torch.float64)
    advantages = centred / ((of_step if spread == "step" else of_groups) + 1e-4)
    values = 0.5 + 0.5 * (advantages / clip).clamp(-1, 1)
    return Targets(
        values.flatten().float(),
        known.flatten(),
        float(scored.mean()) if len(scored) else float("nan"),
        float(of_step),
        float((of_groups < 1e-8).double().mean()),
    )
