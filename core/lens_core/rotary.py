"""Rotary position embedding of image and text tokens on three axes: frame, row, column."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lens_core.float64 import float64_device

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines for every channel, each `[tokens, head_dim]`, float32. Both channels of a pair
(even, odd) have the same angle; sines of even channels are negated."""


def rotary_table(positions: Tensor, axes_dims: Sequence[int], theta: float = 10000.0) -> Rotary:
    """Cosines and sines of the rotary embedding for three-axis positions.

    Args:
        positions: `[tokens, axes]` integer positions, which may be negative.
        axes_dims: Channels of a head given to each axis; they add up to the head dimension.
        theta: Base of the geometric series of frequencies.

    Returns:
        Two float32 tensors `[tokens, sum(axes_dims)]`. Angles are formed in float64.
    """
    device = positions.device
    exact = positions.to(float64_device(device))
    angles = []
    for axis, dim in enumerate(axes_dims):
        exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=exact.device) / dim
        angles.append(exact[:, axis, None].double() * theta**-exponent)
    table = torch.cat(angles, dim=-1)
    cosines, sines = table.cos().float(), table.sin().float()
    signed = torch.stack((-sines, sines), dim=-1).flatten(-2)
    return cosines.repeat_interleave(2, dim=-1).to(device), signed.to(device)


def image_positions(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centred (frame, row, column) positions of `height * width` image tokens, row-major."""
    rows = torch.arange(height, device=device) - (height - height // 2)
    columns = torch.arange(width, device=device) - (width - width // 2)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
    return F.pad(grid, (1, 0))


def text_positions(
    length: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Positions of text tokens: equal on all three axes, starting where the image ends."""
    start = max(height // 2, width // 2)
    return (start + torch.arange(length, device=device))[:, None].expand(length, 3)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate channel pairs (even, odd) of `x` `[batch, tokens, heads, head_dim]` in float32."""
    cosines, signed_sines = (part[None, :, None, :] for part in rotary)
    exact = x.float()
    # Not a stack of the even and odd results: compilers write that to memory before going on.
    turned = exact.reshape(*exact.shape[:-1], -1, 2).flip(-1).flatten(-2).mul_(signed_sines)
    return (exact * cosines).add_(turned).to(x.dtype)
