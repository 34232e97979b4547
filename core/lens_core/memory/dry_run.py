"""Memory that computing takes besides weights, measured by a dry run on the meta device.

The components' own code runs on the meta device, where tensors have shapes but no values, and a
meter follows what is alive. So a change of the code changes the prediction.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn
from transformers import GptOssConfig

from lens_core.memory.meter import AllocationMeter, FusedAttention
from lens_core.memory.tensors import cast_parameters
from lens_core.packed_experts import PackedExperts, Packing
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel

_BLOCKS = 2
"""Blocks to go through: memory is used again from one to the next, so two show the peak."""

_OVERLAPPING = 1 / 0.75**2
"""Pixels of all tiles to those of the picture: diffusers lets a quarter of each side overlap."""


@dataclass(frozen=True)
class Work:
    """Size of what is computed at once.

    Attributes:
        height: Pixels.
        width: Pixels.
        batch: Pictures.
        text_tokens: Read by the text encoder, the text around the prompt included.
        steps: Of the schedule, for plans with a modulation table.
    """

    height: int
    width: int
    batch: int = 1
    text_tokens: int = 512
    steps: int = 50


def dry_run_denoising(config: dict[str, Any], dtype: torch.dtype, work: Work) -> int:
    """Bytes at the peak of one forward of the denoiser.

    Args:
        config: Arguments of the denoiser.
        dtype: Precision it computes in.
        work: Size and batch; text as long as can be.
    """
    with torch.device("meta"), torch.no_grad():
        model = LensTransformer2DModel(**_without_private(config) | {"num_layers": _BLOCKS})
        cast_parameters(model.eval(), dtype)
        side = 8 * config["patch_size"]
        grid = (work.height // side, work.width // side)
        image = torch.empty(work.batch, grid[0] * grid[1], config["in_channels"], dtype=dtype)
        width = config["enc_hidden_dim"]
        text = [
            torch.empty(work.batch, work.text_tokens, width, dtype=dtype)
            for _ in config["selected_layer_index"]
        ]
        timestep = torch.empty(work.batch)
        with AllocationMeter(_tensors(model)) as meter, FusedAttention():
            model(image, text, None, timestep, [(1, *grid)], return_dict=False)
    return int(meter.peak) + _bytes(image, *text)


def dry_run_decoding(
    config: dict[str, Any], dtype: torch.dtype, work: Work, tile: int | None
) -> int:
    """Bytes at the peak of decoding.

    Args:
        config: Arguments of the autoencoder.
        dtype: Precision it computes in.
        work: Size and batch.
        tile: Side of tiles in pixels, None for one piece.
    """
    pixels = work.batch * 3 * work.height * work.width
    if tile is None or max(work.height, work.width) <= tile:
        return _decode_once(config, dtype, work)
    # All tiles work alike. Their pixels wait, then are blended into rows, and those put together.
    one = Work(min(tile, work.height), min(tile, work.width), work.batch)
    tiles = round(pixels * dtype.itemsize * _OVERLAPPING)
    blending = tiles + 2 * pixels * dtype.itemsize + pixels * torch.float32.itemsize
    return max(_decode_once(config, dtype, one) + tiles, blending)


def _decode_once(config: dict[str, Any], dtype: torch.dtype, work: Work) -> int:
    scale = 2 ** (len(config["block_out_channels"]) - 1)
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLFlux2(**_without_private(config)).eval()
        cast_parameters(vae, dtype)
        height, width = work.height // scale, work.width // scale
        latents = torch.empty(work.batch, config["latent_channels"], height, width, dtype=dtype)
        with AllocationMeter(_tensors(vae)) as meter, FusedAttention():
            vae.decode(latents, return_dict=False)[0].float()
    return int(meter.peak) + _bytes(latents)


def dry_run_encoding(
    config: GptOssConfig, packing: tuple[Packing, Packing] | None, dtype: torch.dtype, work: Work
) -> int:
    """Bytes at the peak of reading one prompt, an expert being unpacked.

    Args:
        config: Configuration of the text encoder.
        packing: Of its experts; None if they are not packed.
        dtype: Precision it computes in.
        work: Length of the text.
    """
    shorter = GptOssConfig(**config.to_dict() | {"num_hidden_layers": _BLOCKS, "layer_types": None})
    packings = None if packing is None else [packing] * _BLOCKS
    with torch.device("meta"), torch.no_grad():
        model = LensTextEncoder(shorter, False, packings).eval()
        cast_parameters(model, dtype)
        for layer in model.model.layers:
            layer.mlp.experts = _OneExpert(layer.mlp.experts)
        ids = torch.empty(1, work.text_tokens, dtype=torch.long)
        with AllocationMeter(_tensors(model)) as meter:
            features = model.features(ids, None, range(_BLOCKS))
    selected = 4
    return int(meter.peak) + (selected - _BLOCKS) * _bytes(features[0])


class _OneExpert(nn.Module):
    """Experts of which one is chosen by all: as much as they all together ever have to do."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, hidden_states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        experts: Any = self.experts
        if isinstance(experts, PackedExperts):
            rows = hidden_states.repeat_interleave(chosen.shape[1], 0)
            outputs = experts.compute(rows, [len(rows)])
            back = torch.empty_like(outputs).copy_(outputs).view(*chosen.shape, -1)
            return (back * weights[..., None]).sum(1)
        gate_up = hidden_states @ experts.gate_up_proj[0] + experts.gate_up_proj_bias[0]
        out = experts._apply_gate(gate_up) @ experts.down_proj[0] + experts.down_proj_bias[0]
        return torch.zeros_like(hidden_states).add_(out)


def tile_pictures(vae: AutoencoderKLFlux2, tile: int | None) -> None:
    """Have an autoencoder decode pictures larger than `tile` pixels in tiles, or never."""
    if tile is None:
        vae.disable_tiling()
        return
    vae.enable_tiling()
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // scale


def _without_private(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dict(config).items() if not name.startswith("_")}


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
