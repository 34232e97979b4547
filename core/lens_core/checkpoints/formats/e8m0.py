"""The 8-bit exponent E8M0 of the OCP microscaling formats: `2 ** (byte - 127)`."""

import torch
from torch import Tensor

_SMALLEST = 0x00400000
"""Bits of 2 ** -127, which float32 holds as a subnormal number."""


def decode(scales: Tensor) -> Tensor:
    """Exact values, float32, of uint8 scales of any shape; 255, which stands for NaN, is infinite.

    The bits are put together rather than computed, as powers are approximate on some devices.
    """
    bits = scales.int() << 23
    return bits.masked_fill_(scales == 0, _SMALLEST).view(torch.float32)
