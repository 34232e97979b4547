"""What a step of fine-tuning keeps in memory, found out by going through it without numbers.

As `memory.dry_run` does for drawing: the code itself runs on the meta device, forwards and
backwards, and a meter follows what is alive.
"""

import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2

from lens_core.memory.dry_run import Work
from lens_core.memory.meter import AllocationMeter, FusedAttention
from lens_core.memory.tensors import cast_parameters
from lens_core.training.blocks import wrap_blocks
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.training.lora.weights import attach_adapters
from lens_core.transformer import LensTransformer2DModel


def dry_run_step(config: LoraTrainingConfig, work: Work) -> tuple[int, int]:
    """What a batch takes besides weights.

    Args:
        config: The run's settings, `model` filled in.
        work: Size, batch and length of the text.

    Returns:
        Bytes at the peak of forward and backward, the adapters' gradients among them; how many
        numbers the adapters hold.
    """
    asked = config.model_dump_json(include=_DECIDING)

    def measured(layers: int) -> tuple[int, int]:
        return _dry_run_step(asked, json.dumps({**config.model, "num_layers": layers}), work)

    layers = int(config.model["num_layers"])
    if layers <= _FEW + 1:
        return measured(layers)
    few, more = measured(_FEW), measured(_FEW + 1)
    peak, adapters = (a + (layers - _FEW) * (b - a) for a, b in zip(few, more, strict=True))
    return peak, adapters


_FEW = 6
"""Blocks from which on each further one takes the same."""

_DECIDING = {
    *("start", "method", "rank", "modules", "target_modules"),
    *("precision", "activation_checkpointing"),
}


@lru_cache(maxsize=64)
def _dry_run_step(asked: str, model: str, work: Work) -> tuple[int, int]:
    values = {**json.loads(asked), "model": json.loads(model), "steps": 1, "learning_rate": 1.0}
    config = LoraTrainingConfig(**values, compile=False)
    dtype = getattr(torch, config.precision)
    with torch.device("meta"):
        denoiser = LensTransformer2DModel(**config.model)
        cast_parameters(denoiser, dtype)
        denoiser.requires_grad_(False)
        attach_adapters(denoiser, config)
        blocks = list(denoiser.transformer_blocks)
        for block in blocks:
            block.forward = partial(_with_fused_attention, block.forward)
        wrap_blocks(blocks, config)
        inputs = _inputs(denoiser.config, dtype, work)
        known = [*denoiser.parameters(), *denoiser.buffers()]
        with AllocationMeter(known) as meter:
            denoiser(*inputs, return_dict=False)[0].float().square().mean().backward()
    adapters = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    given = [inputs[0], *inputs[1]]
    return int(meter.peak) + sum(t.numel() * t.element_size() for t in given), adapters


def _with_fused_attention(forward: Callable[..., Any], *arguments: Any) -> Any:
    """A block's pass; the mode is entered here because the backward pass would leave it."""
    with FusedAttention():
        return forward(*arguments)


def _inputs(config: Any, dtype: torch.dtype, work: Work) -> tuple[Any, ...]:
    side = 8 * config.patch_size
    grid = (work.height // side, work.width // side)
    image = torch.empty(work.batch, grid[0] * grid[1], config.in_channels, dtype=dtype)
    shape = work.batch, work.text_tokens, config.enc_hidden_dim
    text = [torch.empty(shape, dtype=dtype) for _ in config.selected_layer_index]
    return image, text, None, torch.empty(work.batch), [(1, *grid)]


def dry_run_pictures(vae: AutoencoderKLFlux2, work: Work) -> int:
    """Bytes at the peak of encoding one picture, which is never done in tiles.

    Args:
        vae: The autoencoder, real or on the meta device.
        work: Its height and width count.
    """
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    return _dry_run_pictures(json.dumps(config, sort_keys=True), vae.dtype, work.height, work.width)


@lru_cache(maxsize=64)
def _dry_run_pictures(config: str, dtype: torch.dtype, height: int, width: int) -> int:
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLFlux2(**json.loads(config)).eval()
        cast_parameters(vae, dtype)
        pixels = torch.empty(1, 3, height, width, dtype=dtype)
        known = [*vae.parameters(), *vae.buffers()]
        with AllocationMeter(known) as meter, FusedAttention():
            vae.encode(pixels).latent_dist.mode()
    return int(meter.peak) + pixels.numel() * pixels.element_size()
