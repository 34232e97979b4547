"""Unpacking MXFP4 in one pass with Triton, for CUDA: equal to `mxfp4.unpack` to the bit.

Only values below 2 ** -126, which no published weight has, may come out as 0.

The plain way goes through tables and several tensors; this reads each byte once and writes its two
values. PyTorch's CUDA builds for Linux bring Triton along; nothing is downloaded. On a CPU the same
code runs under `TRITON_INTERPRET=1`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BYTES_AT_ONCE = 1024


@triton.jit
def _value(code, step):  # type: ignore[no-untyped-def]
    """Value of an E2M1 code times its step: 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign."""
    magnitude = code & 7
    small = magnitude.to(tl.float32) * 0.5
    large = ((2 + (magnitude & 1)) << (magnitude >> 1)).to(tl.float32) * 0.25
    value = tl.where(magnitude < 2, small, large)
    return tl.where((code & 8) != 0, -value, value) * step


@triton.jit  # type: ignore[untyped-decorator]
def _unpack(blocks, scales, out, count, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = index < count
    packed = tl.load(blocks + index, mask=inside, other=0).to(tl.int32)
    exponent = tl.load(scales + index // 16, mask=inside, other=0).to(tl.int32)
    # 2 ** -127 is a subnormal number of float32.
    bits = tl.where(exponent == 0, 0x00400000, exponent << 23)
    step = bits.to(tl.float32, bitcast=True)
    kind = out.dtype.element_ty
    tl.store(out + 2 * index, _value(packed & 0xF, step).to(kind), mask=inside)
    tl.store(out + 2 * index + 1, _value(packed >> 4, step).to(kind), mask=inside)


def unpack(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of packed weights.

    Args:
        blocks: `[..., rows, groups, 16]` uint8.
        scales: `[..., rows, groups]` uint8.
        dtype: Of the result, bfloat16 or float32.

    Returns:
        `[..., rows, groups * 32]`.
    """
    blocks, scales = blocks.contiguous(), scales.contiguous()
    *leading, groups, half = blocks.shape
    out = torch.empty(*leading, groups * 2 * half, dtype=dtype, device=blocks.device)
    count = blocks.numel()
    grid = (triton.cdiv(count, _BYTES_AT_ONCE),)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(blocks):  # type: ignore[no-untyped-call]
        _unpack[grid](blocks, scales, out, count, SIZE=_BYTES_AT_ONCE)
    return out
