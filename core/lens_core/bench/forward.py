"""One forward pass of a branch, as the sampler runs it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lens_core.branch import BranchCache
from lens_core.sampling import compute_mu, make_sigmas
from lens_core.transformer import LensTransformer2DModel

STEPS = 4
"""Number of steps in the schedule that the pass belongs to."""


def branch_forward(
    transformer: LensTransformer2DModel,
    features: Sequence[Tensor] | None,
    grid: tuple[int, int],
    batch: int,
    device: torch.device,
    seed: int = 0,
) -> Callable[[], Tensor]:
    """Return a function that runs the second of four steps, caching what a generation caches.

    Args:
        transformer: The denoiser; its modulation table is built if it uses one.
        features: Text features, `[batch, tokens, width]` for each layer; None for no text.
        grid: (height, width) in tokens.
        batch: Number of images at once.
        device: Where to compute.
        seed: Seed of the latents, which are the same on any device.
    """
    tokens, cache = grid[0] * grid[1], BranchCache()
    noise = torch.randn(
        batch,
        tokens,
        transformer.config.in_channels,
        generator=torch.Generator().manual_seed(seed),
    )
    latents = noise.to(device, transformer.dtype)
    layers = None if features is None else [layer.to(transformer.dtype) for layer in features]
    sigmas = make_sigmas(STEPS, compute_mu(tokens, STEPS))[:-1].to(device)
    transformer.follow_schedule(sigmas)
    time = sigmas[1].expand(batch)

    def forward() -> Tensor:
        found: Tensor = transformer(
            latents, layers, None, time, [(1, *grid)], return_dict=False, branch_cache=cache
        )[0]
        return found

    return forward
