"""Whether a device can multiply by all packed experts of a layer at once, tried out on it."""

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lens_core.checkpoints.formats import mxfp4
from lens_core.errors import first_line

_log = logging.getLogger(__name__)

_OLDEST = (8, 0)
"""Compute capability of the first GPUs that multiply in bfloat16."""


@cache
def grouped_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernel is not used on a device for inputs of a dtype; None if it is.

    Compilers and drivers differ, so the kernel is tried once on a small product whose result is
    known. Without it, experts are unpacked one at a time, with about eight times as many launches.
    """
    if device.type != "cuda":
        return f"it runs on CUDA, not on {device.type!r}"
    if dtype not in (torch.bfloat16, torch.float32):
        return f"it computes in bfloat16 and float32, not in {dtype}"
    if not mxfp4.has_triton():
        return "triton is not installed"
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return "the GPU does not multiply in bfloat16"
    if (problem := try_grouped_product(device, dtype)) is not None:
        _log.warning("experts are unpacked one at a time: %s", problem)
    return problem


@torch.no_grad()
def try_grouped_product(device: torch.device, dtype: torch.dtype) -> str | None:
    """Compute a small product on a device; what is wrong with it, None if nothing."""
    from lens_core.checkpoints.formats.mxfp4_triton import grouped_product

    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 0, 21])
    rows = torch.randn(24, 96, generator=generator).bfloat16().to(dtype)
    bias = torch.randn(3, 80, generator=generator).bfloat16().to(dtype)
    # Every code occurs, and steps from 2 ** -7 to 2 ** -4.
    blocks = torch.randint(0, 256, (3, 80, 3, 16), generator=generator).to(torch.uint8)
    scales = torch.randint(120, 124, (3, 80, 3), generator=generator).to(torch.uint8)
    expected = _one_by_one(rows.float(), counts, mxfp4.unpack(blocks, scales), bias.float())
    try:
        given = (tensor.to(device) for tensor in (rows, counts, blocks, scales, bias))
        found = grouped_product(*given).float().cpu()
    except Exception as error:  # Compilers and drivers fail in ways of their own.
        return f"{type(error).__name__}: {first_line(error)}"
    if not torch.allclose(found, expected, rtol=2**-8, atol=2**-8):
        return f"a product came out wrong by up to {(found - expected).abs().max():.3g}"
    return None


def _one_by_one(rows: Tensor, counts: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    parts = torch.split(rows, counts.tolist())
    return torch.cat([F.linear(*each) for each in zip(parts, weights, bias, strict=True)])
