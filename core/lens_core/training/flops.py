"""Floating-point operations of the denoiser, counted as PaLM's model-FLOPs utilisation counts them.

A multiply-add is two operations. Only matrix products and attention count; what activation
checkpointing computes again does not, so MFU compares runs whatever they recompute.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from lens_core.errors import ParameterError
from lens_core.training.network import denoiser_arguments

PEAK_FLOPS: Mapping[str, float] = MappingProxyType(
    {"a100": 312e12, "h100": 989.4e12, "h200": 989.4e12}
)
"""Dense bfloat16 operations per second of a GPU (SXM), from NVIDIA's data sheets."""

TRAINING_FACTOR = 3
"""Forward and backward over forward: every product has two gradients."""


def forward_flops(model: Mapping[str, Any], image_tokens: int, text_tokens: int) -> int:
    """Operations of one picture's forward pass.

    Per token and block 24 d^2 (3 d^2 weights of queries, keys and values, d^2 of the output, 8 d^2
    of the MLP, times two), 4 d (N + S)^2 of attention per block, and what lies around the blocks.

    Args:
        model: Arguments of `LensTransformer2DModel`.
        image_tokens: Image tokens N.
        text_tokens: Text tokens S that count; 0 runs without text.
    """
    config = denoiser_arguments(model)
    d, blocks = int(config["inner_dim"]), int(config["num_layers"])
    channels = int(config["in_channels"])
    encoded = int(config["enc_hidden_dim"]) * len(config["selected_layer_index"])
    attention_in, out, mlp = 3 * d * d, d * d, 3 * d * int(d / 3 * 8)
    streams = 2 if text_tokens else 1
    weights = (
        image_tokens * (2 * channels * d + blocks * (attention_in + out + mlp))
        # The last block reads the text but does not compute it further.
        + text_tokens * (encoded * d + blocks * attention_in + (blocks - 1) * (out + mlp))
        + 256 * d
        + d * d
        + 2 * d * d
        + blocks * streams * 6 * d * d
    )
    return 2 * weights + 4 * blocks * d * (image_tokens + text_tokens) ** 2


def training_flops(model: Mapping[str, Any], image_tokens: int, text_tokens: int) -> int:
    """Operations of one picture's forward and backward pass, nothing computed again."""
    return TRAINING_FACTOR * forward_flops(model, image_tokens, text_tokens)


def peak_flops(device: torch.device, given_tflops: float | None = None) -> float | None:
    """Peak operations per second of one device, None where it is not known.

    Args:
        device: Of this process.
        given_tflops: What the user says it is, in 10^12 operations per second.
    """
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def peak_of(gpu: str) -> float:
    """Peak of a GPU by name.

    Raises:
        ParameterError: Not in `PEAK_FLOPS`.
    """
    if gpu.lower() not in PEAK_FLOPS:
        raise ParameterError(f"gpu {gpu!r} is not known; choose one of {', '.join(PEAK_FLOPS)}")
    return PEAK_FLOPS[gpu.lower()]
