"""The 4-bit float E2M1 of the OCP microscaling formats: one sign, two exponent, one mantissa bit.

Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign.
"""

import torch
from torch import Tensor

LARGEST = 6.0

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_HALFWAY = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def decode(codes: Tensor) -> Tensor:
    """Values, float32, of codes 0 to 15 of any shape."""
    table = torch.tensor([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], device=codes.device)
    return table[codes.int()]


def decode_pairs(packed: Tensor, dtype: torch.dtype, low_first: bool) -> Tensor:
    """Values of bytes that hold two codes each.

    Args:
        packed: `[..., n]` uint8.
        dtype: Of the result; bfloat16 or float32.
        low_first: Whether the low nibble is the even element.

    Returns:
        `[..., 2 * n]`.
    """
    every = torch.arange(256, device=packed.device)
    nibbles = (every & 0xF, every >> 4)
    pairs = torch.stack([decode(codes) for codes in (nibbles if low_first else nibbles[::-1])], -1)
    # Both values of a byte are fetched as one integer, which is many times faster than two values.
    whole = torch.int32 if dtype == torch.bfloat16 else torch.int64
    table = pairs.to(dtype).view(whole).flatten()
    values = table.index_select(0, packed.flatten().int()).view(dtype)
    return values.view(*packed.shape[:-1], 2 * packed.shape[-1])


def encode(values: Tensor) -> Tensor:
    """Codes, uint8, of the nearest values; ties go to the even code, magnitudes above 6 to 6."""
    boundaries = torch.tensor(_HALFWAY, device=values.device)
    # A tie above an odd code goes up: its boundary is moved just below the tie.
    boundaries[1::2] = boundaries[1::2].nextafter(torch.zeros((), device=values.device))
    codes = torch.bucketize(values.float().abs().contiguous(), boundaries).to(torch.uint8)
    return codes | (torch.signbit(values).to(torch.uint8) << 3)
