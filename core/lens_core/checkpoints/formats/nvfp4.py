"""NVFP4 as in Comfy's single-file GPT-OSS.

16 values along the input share a float8 (E4M3) scale, and a whole matrix a float32 one. Of two
codes in a byte the HIGH nibble is the even element, the opposite of MXFP4. Scales lie in blocked
order.
"""

import torch
from torch import Tensor

from lens_core.checkpoints.formats import e2m1
from lens_core.checkpoints.formats.blocked_scales import from_blocked, to_blocked
from lens_core.errors import CheckpointError

GROUP = 16
_LARGEST_SCALE = 448.0


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round weights to NVFP4.

    Args:
        weight: `[..., rows, columns]`; columns are inputs, a multiple of 16.

    Returns:
        Codes `[..., rows, columns / 2]` uint8; scales `[..., padded rows, padded columns / 16]`
        float8_e4m3fn in blocked order; global scales `[...]` float32.

    Raises:
        CheckpointError: Columns that do not fill whole groups.
    """
    if weight.shape[-1] % GROUP:
        raise CheckpointError(f"NVFP4 needs a multiple of {GROUP} columns, not {weight.shape[-1]}")
    groups = torch.unflatten(weight.float(), -1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    overall = largest.amax((-2, -1)) / (e2m1.LARGEST * _LARGEST_SCALE)
    overall = torch.where(overall > 0, overall, 1.0)
    scales = (largest / e2m1.LARGEST / overall[..., None, None]).to(torch.float8_e4m3fn)
    step = scales.float() * overall[..., None, None]
    scaled = torch.where(step[..., None] > 0, groups / step[..., None], 0.0)
    codes = e2m1.encode(scaled).flatten(-2)
    return codes[..., 0::2] << 4 | codes[..., 1::2], to_blocked(scales), overall


def unpack(
    packed: Tensor, scales: Tensor, overall: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Values of packed weights.

    Args:
        packed: `[..., rows, columns / 2]` uint8.
        scales: Blocked and padded, float8_e4m3fn or its bits as uint8.
        overall: `[...]` float32.
        dtype: Of the result; computed in float32.

    Returns:
        `[..., rows, columns]`.
    """
    rows, half = packed.shape[-2:]
    bits = from_blocked(scales.view(torch.uint8), rows, 2 * half // GROUP)
    step = _scale_values(bits) * overall[..., None, None]
    values = e2m1.decode_pairs(packed, torch.float32, low_first=False)
    groups = torch.unflatten(values, -1, (-1, GROUP))
    return groups.mul_(step[..., None]).flatten(-2).to(dtype)


def _scale_values(bits: Tensor) -> Tensor:
    """Looked up, as Apple's GPUs have no float8."""
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return every.to(bits.device)[bits.int()]
