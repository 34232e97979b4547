"""The DiffusionNFT loss (arXiv 2509.16117, equation 7, as its published code computes it).

Written from the paper; there are two details that only the code has: errors are measured on the
predicted clean latents, and each is divided by its own mean size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lens_core.training.fields import predict_clean


@dataclass(frozen=True)
class NFTLoss:
    """Terms per sample, each `[B]`.

    Attributes:
        policy: Contrast of the positive and the negative velocity, weighted by the target.
        kl: Squared distance from the reference velocity, zero without one.
        old_deviation: Squared distance from the rollout policy's velocity.
    """

    policy: Tensor
    kl: Tensor
    old_deviation: Tensor


def nft_loss(
    velocity: Tensor,
    old: Tensor,
    reference: Tensor | None,
    noisy: Tensor,
    timesteps: Tensor,
    clean: Tensor,
    targets: Tensor,
    beta: float,
) -> NFTLoss:
    """Push the velocity towards pictures with high targets and away from those with low ones.

    With `positive = beta * v + (1 - beta) * old` and `negative = (1 + beta) * old - beta * v`, the
    policy term is `(target * error(positive) + (1 - target) * error(negative)) / beta`, where
    `error` is the mean square of the clean prediction's error over its mean magnitude.

    Args:
        velocity: Of the policy in training, `[B, N, C]`.
        old: Of the rollout policy, without gradient.
        reference: Of the frozen model, without gradient; None leaves `kl` out.
        noisy: Latents at the timesteps.
        timesteps: `[B]`.
        clean: Latents that the rollout ended with.
        targets: `[B]` in [0, 1].
        beta: Strength of the mixture.
    """
    positive = beta * velocity + (1 - beta) * old
    negative = (1 + beta) * old - beta * velocity
    policy = (
        targets * _relative_error(predict_clean(noisy, timesteps, positive), clean)
        + (1 - targets) * _relative_error(predict_clean(noisy, timesteps, negative), clean)
    ) / beta
    kl = torch.zeros_like(policy)
    if reference is not None:
        kl = (velocity - reference).square().mean(dim=(1, 2))
    return NFTLoss(policy, kl, (velocity.detach() - old).square().mean(dim=(1, 2)))


def _relative_error(predicted: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error over mean absolute error, the latter without gradient."""
    error = predicted - clean
    weight = error.detach().double().abs().mean(dim=(1, 2)).clamp(min=1e-5)
    return error.square().mean(dim=(1, 2)) / weight.to(error.dtype)
