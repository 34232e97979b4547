"""MXFP8 as in Comfy's single-file denoisers.

float8 (E4M3) weights; 32 values along the input share a scale `2 ** (byte - 127)`. Scales lie in
blocked order.
"""

import torch
from torch import Tensor

from lens_core.checkpoints.formats import e8m0
from lens_core.checkpoints.formats.blocked_scales import from_blocked, padded_shape, to_blocked
from lens_core.errors import CheckpointError

GROUP = 32
_BIAS = 127
_FRACTION, _EXPONENT = 0.875, 9
"""E4M3's largest value, 448, is 0.875 * 2 ** 9."""


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to MXFP8, with scales large enough that nothing is clipped.

    Args:
        weight: `[rows, columns]`; columns are inputs, a multiple of 32.

    Returns:
        float8_e4m3fn `[rows, columns]` and scales uint8 `[padded rows, padded columns / 32]` in
        blocked order.

    Raises:
        CheckpointError: Columns that do not fill whole groups.
    """
    if weight.shape[-1] % GROUP:
        raise CheckpointError(f"MXFP8 needs a multiple of {GROUP} columns, not {weight.shape[-1]}")
    groups = torch.unflatten(weight.float(), -1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    split = torch.frexp(largest)
    exponent = split.exponent - _EXPONENT + (split.mantissa > _FRACTION).int()
    exponent = torch.where(largest > 0, exponent, -_BIAS).clamp(-_BIAS, _BIAS)
    scaled = torch.ldexp(groups, -exponent[..., None])
    return (
        scaled.to(torch.float8_e4m3fn).flatten(-2),
        to_blocked((exponent + _BIAS).to(torch.uint8)),
    )


def unpack(packed: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of packed weights.

    Args:
        packed: `[rows, columns]` float8_e4m3fn.
        scales: Blocked and padded, uint8, in any shape of that size.
        dtype: Of the result. bfloat16 and float32 hold every value, unless it underflows.

    Returns:
        `[rows, columns]`.
    """
    rows, columns = packed.shape
    blocked = scales.view(torch.uint8).reshape(padded_shape(rows, columns // GROUP))
    scales = e8m0.decode(from_blocked(blocked, rows, columns // GROUP))
    groups = torch.unflatten(packed.float(), -1, (-1, GROUP))
    return groups.mul_(scales[..., None]).flatten(-2).to(dtype)
