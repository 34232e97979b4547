"""MXFP4 as in the published GPT-OSS weights.

32 values along the input share a scale `2 ** (byte - 127)`. Of two codes in a byte the LOW nibble
is the even element. Source: `openai/gpt-oss-20b`, OCP Microscaling Formats 1.0.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lens_core.checkpoints.formats import e2m1, e8m0
from lens_core.errors import CheckpointError

GROUP = 32
_BIAS = 127
_LARGEST_EXPONENT = 2
"""Of E2M1: its largest value is 1.5 * 2 ** 2."""


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to MXFP4. Weights that came from MXFP4 keep their values exactly.

    Args:
        weight: `[..., rows, columns]`; columns are inputs, a multiple of 32.

    Returns:
        Blocks `[..., rows, columns / 32, 16]` and scales `[..., rows, columns / 32]`, both uint8.

    Raises:
        CheckpointError: Columns that do not fill whole groups.
    """
    if weight.shape[-1] % GROUP:
        raise CheckpointError(f"MXFP4 needs a multiple of {GROUP} columns, not {weight.shape[-1]}")
    groups = torch.unflatten(weight.float(), -1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    exponent = torch.frexp(largest).exponent - 1 - _LARGEST_EXPONENT
    exponent = torch.where(largest > 0, exponent, -_BIAS).clamp(-_BIAS, _BIAS)
    codes = e2m1.encode(torch.ldexp(groups, -exponent[..., None]))
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + _BIAS).to(torch.uint8)


def unpack(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of packed weights; on CUDA, where Triton is installed, in one pass.

    Args:
        blocks: `[..., rows, groups, 16]` uint8.
        scales: `[..., rows, groups]` uint8.
        dtype: Of the result. bfloat16 and float32 hold every value, unless it underflows.

    Returns:
        `[..., rows, groups * 32]`.
    """
    if blocks.is_cuda and has_triton() and dtype in (torch.bfloat16, torch.float32):
        from lens_core.checkpoints.formats import mxfp4_triton

        return mxfp4_triton.unpack(blocks, scales, dtype)
    working = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    values = e2m1.decode_pairs(blocks, working, low_first=True)
    return values.mul_(e8m0.decode(scales).to(working)[..., None]).flatten(-2).to(dtype)
