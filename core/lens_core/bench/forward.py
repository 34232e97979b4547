"""One forward pass of a branch as the sampler asks for it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lens_core.branch import BranchCache
from lens_core.sampling import compute_mu, make_sigmas
from lens_core.transformer import LensTransformer2DModel

STEPS = 4
"""Of the schedule that the pass is one step of."""


def branch_forward(
    transformer: LensTransformer2DModel,
    features: Sequence[Tensor] | None,
    grid: tuple[int, int],
    batch: int,
    device: torch.device,
    seed: int = 0,
) -> Callable[[], Tensor]:
    """A call of the second of four steps, with what a generation keeps kept.

    Args:
        transformer: The denoiser; a table of modulations is made if it keeps one.
        features: Of the text, `[batch, tokens, width]` for each layer; None for no text.
        grid: (height, width) in tokens.
        batch: Pictures at once.
        device: Where to compute.
        seed: Of the latents, which are the same on any device.
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
