"""Block formats of GGML unpacked by torch, on whatever device the bytes are.

For weights that stay packed in memory; files are read with the `gguf` package, to whose values
these are equal. Source: ggml's `ggml-common.h` and `ggml-quants.c`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def unpack(data: Tensor, kind: str) -> Tensor:
    """Values of packed weights.

    Args:
        data: `[..., bytes of a row]` uint8.
        kind: One of `KINDS`.

    Returns:
        `[..., columns]` float32.
    """
    size, values = KINDS[kind]
    return values(torch.unflatten(data, -1, (-1, size))).flatten(-2)


def _half(groups: Tensor, start: int) -> Tensor:
    """The float16 number at a byte, `[..., 1]` in float32."""
    return groups[..., start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """16 bytes hold 32 codes: the low halves are the first 16."""
    return torch.cat((packed & 0xF, packed >> 4), dim=-1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """4 bytes hold a bit of each of 32 codes, the lowest first; each is 0 or 16."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & 1).flatten(-2) << 4


def _q4_0(groups: Tensor) -> Tensor:
    return _half(groups, 0) * (_nibbles(groups[..., 2:]).float() - 8)


def _q4_1(groups: Tensor) -> Tensor:
    return _half(groups, 0) * _nibbles(groups[..., 4:]).float() + _half(groups, 2)


def _q5_0(groups: Tensor) -> Tensor:
    codes = _nibbles(groups[..., 6:]) | _fifth_bits(groups[..., 2:6])
    return _half(groups, 0) * (codes.float() - 16)


def _q5_1(groups: Tensor) -> Tensor:
    codes = _nibbles(groups[..., 8:]) | _fifth_bits(groups[..., 4:8])
    return _half(groups, 0) * codes.float() + _half(groups, 2)


def _q8_0(groups: Tensor) -> Tensor:
    return _half(groups, 0) * groups[..., 2:].contiguous().view(torch.int8).float()


def _iq4_nl(groups: Tensor) -> Tensor:
    table = torch.tensor(_IQ4_NL, dtype=torch.float32, device=groups.device)
    return _half(groups, 0) * table[_nibbles(groups[..., 2:]).int()]


KINDS: Mapping[str, tuple[int, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "Q4_0": (18, _q4_0),
        "Q4_1": (20, _q4_1),
        "Q5_0": (22, _q5_0),
        "Q5_1": (24, _q5_1),
        "Q8_0": (34, _q8_0),
        "IQ4_NL": (18, _iq4_nl),
    }
)
"""Bytes of a block of 32 values, and what they mean. GPT-OSS-20B's experts, which are 2,880 wide,
fill no larger blocks, so that files of it have these or MXFP4."""
