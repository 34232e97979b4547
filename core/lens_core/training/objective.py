"""What the denoiser learns: flow matching, timesteps, and an optional alignment with the truth."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lens_core.training.fields import add_noise

Line = tuple[tuple[int, float], tuple[int, float]]
"""Two token counts with the means of their timesteps."""


def recipe_mean(tokens: int, line: Line = ((256, 1.0), (4096, 1.3))) -> float:
    """Mean of the logit-normal timesteps of pictures with `tokens` tokens, on a line."""
    (few, low), (many, high) = line
    return low + (high - low) * (tokens - few) / (many - few)


def sample_timesteps(count: int, mean: float, generator: Generator) -> Tensor:
    """Logit-normal timesteps in (0, 1), stratified over the batch, in random order.

    `sigmoid(N(mean, 1))`, its quantiles drawn one from each of `count` equal parts.
    """
    parts = torch.arange(count) + torch.rand(count, generator=generator)
    quantiles = (parts / count).clamp(1e-6, 1 - 1e-6)
    normal = math.sqrt(2) * torch.erfinv(2 * quantiles - 1) + mean
    return normal.sigmoid()[torch.randperm(count, generator=generator)]


def noised(latents: Tensor, timesteps: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Noisy latents `(1 - t) x + t e` and the velocity `e - x` to predict."""
    noise = torch.randn(latents.shape, generator=generator)
    return add_noise(latents, timesteps, noise), noise - latents


class AlignmentHead(nn.Module):
    """Predicts from a block's image tokens what the scene holds at each token.

    Representation alignment (arXiv 2410.06940) with the drawn scene's truth in place of another
    network's features; it shapes the denoiser during training and is thrown away afterwards.

    Args:
        dim: Width of the denoiser.
        sizes: Number of classes, colours and backgrounds.
    """

    def __init__(self, dim: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, sum(sizes)))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of tokens `[B, N, dim]` against labels `[B, N, 3]`."""
        parts = self.net(tokens).float().split(self.sizes, dim=-1)
        losses = [
            F.cross_entropy(part.flatten(0, 1), labels[..., i].flatten())
            for i, part in enumerate(parts)
        ]
        return torch.stack(losses).mean()
