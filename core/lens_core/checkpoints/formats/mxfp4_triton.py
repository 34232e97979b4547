"""MXFP4 with Triton, for CUDA: unpacking in one pass, and products with matrices that stay packed.

PyTorch's CUDA builds for Linux bring Triton along; nothing is downloaded. On a CPU the same code
runs under `TRITON_INTERPRET=1`.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_BYTES_AT_ONCE = 1024


class Tile(NamedTuple):
    """What one program computes: `outputs` x `rows` values, `inputs` columns at a time."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int


TILES = (Tile(16, 64, 64, 4, 4), Tile(32, 128, 64, 4, 3), Tile(64, 128, 64, 4, 3))
"""By rows; for more than any holds, `LARGEST`."""

LARGEST = Tile(128, 128, 64, 8, 3)


@triton.jit
def _values(code):  # type: ignore[no-untyped-def]
    """Values of E2M1 codes in float32: 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign.

    In the fields of float32 their bits mean 2 ** 126 times less, also as subnormal numbers.
    """
    bits = ((code & 7) << 22) | ((code & 8) << 28)
    return bits.to(tl.float32, bitcast=True) * 8.507059173023462e37


@triton.jit
def _steps(exponent):  # type: ignore[no-untyped-def]
    """`2 ** (exponent - 127)` in float32; the least is a subnormal number."""
    bits = tl.where(exponent == 0, 0x00400000, exponent << 23)
    return bits.to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _unpack(blocks, scales, out, count, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = index < count
    packed = tl.load(blocks + index, mask=inside, other=0).to(tl.int32)
    kind = out.dtype.element_ty
    step = _steps(tl.load(scales + index // 16, mask=inside, other=0).to(tl.int32))
    tl.store(out + 2 * index, (_values(packed) * step).to(kind), mask=inside)
    tl.store(out + 2 * index + 1, (_values(packed >> 4) * step).to(kind), mask=inside)


def unpack(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of packed weights, equal to `mxfp4.unpack` to the bit.

    The plain way goes through tables and several tensors; this reads each byte once and writes its
    two values. Only values below 2 ** -126, which no published weight has, may come out as 0.

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


@triton.jit  # type: ignore[untyped-decorator]
def grouped_kernel(  # type: ignore[no-untyped-def]
    rows, counts, blocks, scales, bias, out, experts, outputs, inputs,
    padded_experts: tl.constexpr, tile_rows: tl.constexpr, tile_outputs: tl.constexpr,
    tile_inputs: tl.constexpr,
):  # fmt: skip
    """One tile of one expert's rows; transposed, as more outputs than rows fill a product best."""
    kind = rows.dtype.element_ty
    tile = tl.program_id(0)
    each = tl.arange(0, padded_experts)
    count = tl.load(counts + each, mask=each < experts, other=0).to(tl.int32)
    tiles = (count + tile_rows - 1) // tile_rows
    expert = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    if expert >= experts:
        return
    before = each < expert
    row = (tile - tl.sum(tl.where(before, tiles, 0), 0)) * tile_rows + tl.arange(0, tile_rows)
    own = row < tl.sum(tl.where(each == expert, count, 0), 0)
    row = (tl.sum(tl.where(before, count, 0), 0) + row).to(tl.int64)
    output = tl.program_id(1) * tile_outputs + tl.arange(0, tile_outputs)
    real = output < outputs
    line = expert.to(tl.int64) * outputs + output
    column = tl.arange(0, tile_inputs)
    byte = tl.arange(0, tile_inputs // 2)
    group = tl.arange(0, tile_inputs // 32)
    total = tl.zeros((tile_outputs, tile_rows), dtype=tl.float32)
    for start in range(0, inputs, tile_inputs):
        x = tl.load(
            rows + row[:, None] * inputs + start + column[None, :],
            mask=own[:, None] & (start + column < inputs)[None, :],
            other=0.0,
        )
        packed = tl.load(
            blocks + line[:, None] * (inputs // 2) + start // 2 + byte[None, :],
            mask=real[:, None] & (start // 2 + byte < inputs // 2)[None, :],
            other=0,
        ).to(tl.int32)
        exponent = tl.load(
            scales + line[:, None] * (inputs // 32) + start // 32 + group[None, :],
            mask=real[:, None] & (start // 32 + group < inputs // 32)[None, :],
            other=0,
        ).to(tl.int32)
        step = _steps(exponent)[:, :, None]
        step = tl.broadcast_to(step, (tile_outputs, tile_inputs // 32, 16))
        step = tl.reshape(step, (tile_outputs, tile_inputs // 2))
        even = (_values(packed) * step).to(kind)
        odd = (_values(packed >> 4) * step).to(kind)
        weights = tl.interleave(even, odd)
        total = tl.dot(weights, tl.trans(x), total, input_precision="ieee")
    total += tl.load(bias + line, mask=real, other=0.0).to(tl.float32)[:, None]
    place = out + row[None, :] * outputs + output[:, None]
    tl.store(place, total.to(kind), mask=own[None, :] & real[:, None])


def grouped_product(
    rows: Tensor, counts: Tensor, blocks: Tensor, scales: Tensor, bias: Tensor
) -> Tensor:
    """Rows times the transposed matrices of their experts, plus bias, in one launch.

    Summed in float32 and rounded once. The host does not wait to learn how the rows are shared out.

    Args:
        rows: `[rows, inputs]`, bfloat16 or float32, in the order of their experts.
        counts: Rows of each expert `[experts]`, int64, on the device.
        blocks: `[experts, outputs, inputs / 32, 16]` uint8.
        scales: `[experts, outputs, inputs / 32]` uint8.
        bias: `[experts, outputs]`.

    Returns:
        `[rows, outputs]`, of the rows' type.
    """
    experts, outputs = bias.shape
    tile = tile_for(len(rows), experts, rows.dtype)
    out = rows.new_empty(len(rows), outputs)
    # As many as there can be, were the rows shared out in the worst way.
    tiles = (len(rows) + (tile.rows - 1) * min(experts, len(rows))) // tile.rows
    tensors = (rows, counts, blocks, scales, bias)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        grouped_kernel[(tiles, triton.cdiv(outputs, tile.outputs))](
            *(tensor.contiguous() for tensor in tensors),
            out,
            experts,
            outputs,
            rows.shape[1],
            padded_experts=triton.next_power_of_2(experts),
            tile_rows=tile.rows,
            tile_outputs=tile.outputs,
            tile_inputs=tile.inputs,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out


def tile_for(rows: int, experts: int, dtype: torch.dtype) -> Tile:
    """The smallest tile that holds an expert's rows, were they shared out evenly.

    In float32 the smallest of all: others need more registers and memory than there are.
    """
    if dtype == torch.float32:
        return TILES[0]
    return next((tile for tile in TILES if tile.rows * experts >= rows), LARGEST)
