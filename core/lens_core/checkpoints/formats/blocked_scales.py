"""The order that NVIDIA's block-scaled matrix products want scale factors in.

Scales `[rows, columns]` are padded to whole tiles of 128 x 4. Within a tile the scale of (row,
column) lies at `row % 32 * 16 + row // 32 * 4 + column`; tiles follow each other row-major.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS, _COLUMNS = 128, 4


def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape of blocked scales of a `[rows, columns]` table."""
    return -(-rows // _ROWS) * _ROWS, -(-columns // _COLUMNS) * _COLUMNS


def to_blocked(scales: Tensor) -> Tensor:
    """Reorder scales `[..., rows, columns]` into `[..., padded rows, padded columns]`.

    Padding is zero bytes.
    """
    *leading, rows, columns = scales.shape
    high, wide = padded_shape(rows, columns)
    bytes_ = scales.view(_byte_type(scales))
    padded = F.pad(bytes_, (0, wide - columns, 0, high - rows))
    tiles = padded.reshape(*leading, high // _ROWS, 4, 32, wide // _COLUMNS, _COLUMNS)
    count = len(leading)
    order = [*range(count), *(count + axis for axis in (0, 3, 2, 1, 4))]
    return tiles.permute(order).reshape(*leading, high, wide).view(scales.dtype)


def from_blocked(blocked: Tensor, rows: int, columns: int) -> Tensor:
    """Undo `to_blocked`.

    Args:
        blocked: `[..., padded rows, padded columns]`, or the same values flat.
        rows: Rows that count.
        columns: Columns that count.

    Returns:
        `[..., rows, columns]`.
    """
    high, wide = padded_shape(rows, columns)
    leading = blocked.shape[:-2]
    bytes_ = blocked.view(_byte_type(blocked))
    tiles = bytes_.reshape(*leading, high // _ROWS, wide // _COLUMNS, 32, 4, _COLUMNS)
    count = len(leading)
    order = [*range(count), *(count + axis for axis in (0, 3, 2, 1, 4))]
    scales = tiles.permute(order).reshape(*leading, high, wide)[..., :rows, :columns]
    return scales.contiguous().view(blocked.dtype)


def _byte_type(scales: Tensor) -> torch.dtype:
    if scales.element_size() != 1:
        raise TypeError(f"scale factors are bytes, not {scales.dtype}")
    return torch.uint8
