"""Block formats of GGML, by the maintained `gguf` package, and its MXFP4 without loss.

A GGML MXFP4 group is 17 bytes: the scale, then 16 bytes whose LOW nibbles are elements 0 to 15 and
whose high nibbles are elements 16 to 31.
"""

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from lens_core.errors import CheckpointError

WRITABLE = ("F32", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4")
"""Types that `pack` can make; many more can be read."""


def pack(weight: Tensor, kind: str) -> np.ndarray:
    """Round weights to a GGML type.

    Args:
        weight: `[..., columns]`.
        kind: One of `WRITABLE`.

    Returns:
        Bytes `[..., bytes of a row]`, or float32 as they are.

    Raises:
        CheckpointError: A type that cannot be made, or columns that do not fill whole blocks.
    """
    if kind not in WRITABLE:
        raise CheckpointError(f"GGUF type {kind!r} cannot be written; use one of {WRITABLE}")
    values = weight.float().contiguous().cpu().numpy()
    try:
        return quantize(values, GGMLQuantizationType[kind])
    except ValueError as error:
        raise CheckpointError(f"{tuple(weight.shape)} does not fit {kind}: {error}") from error


def unpack(data: np.ndarray, kind: str) -> Tensor:
    """Values, float32 (float16 and bfloat16 exactly), of GGML data.

    Args:
        data: `[..., bytes of a row]`, or floating point as it is.
        kind: A GGML type.

    Raises:
        CheckpointError: A type that the `gguf` package cannot unpack.
    """
    try:
        values = dequantize(data, GGMLQuantizationType[kind])
    except (KeyError, NotImplementedError) as error:
        raise CheckpointError(f"GGUF type {kind!r} cannot be read") from error
    return torch.from_numpy(np.array(values, dtype=np.float32))


def mxfp4_to_blocks(data: Tensor) -> tuple[Tensor, Tensor]:
    """GGML's MXFP4 in the order of the published weights; no value changes.

    Args:
        data: `[..., rows, 17 * groups]` uint8.

    Returns:
        Blocks `[..., rows, groups, 16]` and scales `[..., rows, groups]`.
    """
    groups = torch.unflatten(data, -1, (-1, 17))
    halves = groups[..., 1:]
    codes = torch.cat((halves & 0xF, halves >> 4), dim=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4, groups[..., 0].contiguous()


def blocks_to_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Undo `mxfp4_to_blocks`."""
    codes = torch.stack((blocks & 0xF, blocks >> 4), dim=-1).flatten(-2)
    halves = codes[..., :16] | codes[..., 16:] << 4
    return torch.cat((scales[..., None], halves), dim=-1).flatten(-2)
