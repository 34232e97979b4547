"""Models to benchmark: several sizes, with random weights created on the device."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import nn
from transformers import GptOssConfig

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints.configs import released_encoder_config
from lens_core.errors import ParameterError
from lens_core.packed_experts import Mxfp4Packing
from lens_core.pipeline import LensPipeline
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import ExactRotaryEmbedding, LensTextEncoder
from lens_core.tokenizer import load_packaged_tokenizer
from lens_core.transformer import LensTransformer2DModel

PROMPT = (
    "A wide photograph of a small harbour at dawn. In the foreground three wooden fishing "
    "boats, painted red, white and pale blue, are tied to a weathered pier; coiled ropes, a "
    "stack of green nets and two plastic crates lie on its planks. A woman in a yellow raincoat"
    " and dark rubber boots bends over the nearest boat, her left hand on its rim, a steaming "
    "tin mug in her right. Behind her, a row of narrow houses with slate roofs climbs a hill; "
    'one window on the second floor is lit, and a hand-painted sign over a door reads "HARBOUR '
    'BAKERY" in white letters. Mist lies on the still water, which mirrors the boats and the '
    "first orange light between low clouds. Two gulls stand on a post at the right edge, a "
    "third lands with its wings spread. Soft light from the left, long shadows, muted colours "
    "with the yellow coat as the only strong one, fine grain, sharp from the pier to the hill, "
    "eye level, 35 mm lens."
)
"""About as long as a rewritten prompt."""


def shorter_prompts() -> Iterator[str]:
    """Yield `PROMPT` without its last word, its last two words and so on, then repeat."""
    words = PROMPT.split()
    return itertools.cycle(" ".join(words[:count]) for count in range(len(words) - 1, 0, -1))


@dataclass(frozen=True)
class BenchConfig:
    """Models and the image sizes to measure.

    Attributes:
        name: Name on the command line.
        transformer: Arguments of `LensTransformer2DModel`.
        text_encoder: Arguments of `GptOssConfig`; empty for those of GPT-OSS-20B.
        vae: Arguments of `AutoencoderKLFlux2`.
        sizes: Sides of square images in pixels.
        batches: Batch sizes in images.
        ceiling: Side of the square matrix product that defines the performance ceiling.
    """

    name: str
    transformer: Mapping[str, Any] = field(default_factory=dict)
    text_encoder: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = (1024, 1440)
    batches: tuple[int, ...] = (1, 4)
    ceiling: int = 8192


def _encoder(layers: int, width: int, experts: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": width,
        "num_attention_heads": width // 32,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": experts,
        "pad_token_id": 199999,
        "eos_token_id": 200002,
    }


def _vae(channels: tuple[int, ...], latent_channels: int, layers: int) -> dict[str, Any]:
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "norm_num_groups": 8,
    }


CONFIGS: Mapping[str, BenchConfig] = MappingProxyType(
    {
        "nano": BenchConfig(
            "nano",
            transformer={
                "in_channels": 24,
                "out_channels": 6,
                "num_layers": 6,
                "attention_head_dim": 32,
                "num_attention_heads": 4,
                "inner_dim": 128,
                "enc_hidden_dim": 128,
                "axes_dims_rope": (8, 12, 12),
                "selected_layer_index": (1, 2, 3, 4),
            },
            text_encoder=_encoder(layers=5, width=128, experts=4),
            vae=_vae((16, 32, 48, 48), latent_channels=6, layers=1),
            sizes=(128,),
            batches=(1,),
            ceiling=512,
        ),
        "mid": BenchConfig(
            "mid",
            transformer={
                "num_layers": 8,
                "attention_head_dim": 64,
                "num_attention_heads": 6,
                "inner_dim": 384,
                "enc_hidden_dim": 256,
                "selected_layer_index": (1, 3, 5, 7),
            },
            text_encoder=_encoder(layers=8, width=256, experts=8),
            vae=_vae((32, 64, 128, 128), latent_channels=32, layers=2),
            sizes=(256,),
            batches=(1,),
            ceiling=1024,
        ),
        "lens": BenchConfig("lens"),
    }
)
"""`nano` has the size of lens-nano, `mid` runs in seconds on a CPU, `lens` has the real size."""


def bench_config(name: str) -> BenchConfig:
    """Return a configuration by name.

    Raises:
        ParameterError: The name is unknown.
    """
    if name not in CONFIGS:
        raise ParameterError(f"config {name!r} must be one of {', '.join(CONFIGS)}")
    return CONFIGS[name]


def random_pipeline(
    config: BenchConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> LensPipeline:
    """Create a pipeline with random weights on the device; the encoder's experts are MXFP4.

    Args:
        config: Sizes of the models.
        device: Where to create them.
        dtype: bfloat16 or float32.
        seed: Seed of the weights.

    Raises:
        PrecisionError: `dtype` is float16.
    """
    check_dtype(dtype)
    torch.manual_seed(seed)
    with torch.device(device), _default_dtype(dtype):
        transformer = LensTransformer2DModel(**config.transformer).eval()
        vae = AutoencoderKLFlux2(**config.vae).eval()
    open_gates(transformer)
    vae.bn.running_mean = vae.bn.running_mean.float()
    vae.bn.running_var = vae.bn.running_var.float()
    pipeline = LensPipeline(
        transformer=transformer,
        text_encoder=random_text_encoder(config, device, dtype),
        vae=vae,
        tokenizer=load_packaged_tokenizer(),
        scheduler=default_scheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def open_gates(transformer: LensTransformer2DModel) -> None:
    """Give the blocks' outputs full weight, as in a trained model.

    With the gates that random modulations produce, a block hardly changes its input, which would
    hide numerical errors in the block.
    """
    blocks: Any = transformer.transformer_blocks
    for block in blocks:
        for modulation in (block.img_mod, block.txt_mod):
            parts = modulation[1].bias.unflatten(0, (6, -1))
            parts[2], parts[5] = 1, 1


def random_text_encoder(
    config: BenchConfig, device: torch.device, dtype: torch.dtype
) -> LensTextEncoder:
    """Create a GPT-OSS with random weights, experts packed as MXFP4, without a language head."""
    stock = GptOssConfig(**config.text_encoder) if config.text_encoder else None
    sizes = stock or released_encoder_config()
    packings = [(Mxfp4Packing(), Mxfp4Packing())] * sizes.num_hidden_layers
    with torch.device("meta"), _default_dtype(dtype):
        blank = LensTextEncoder(sizes, has_lm_head=False, packings=packings)
    model = blank.to_empty(device=device).eval()
    for name, parameter in model.named_parameters():
        _fill(name, parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("_blocks"):
            buffer.random_(0, 256)
        elif name.endswith("_scales"):
            buffer.random_(119, 122)
    model.model.rotary_emb = ExactRotaryEmbedding(sizes).to(device)
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def _fill(name: str, parameter: nn.Parameter) -> None:
    if name.endswith("norm.weight"):
        parameter.fill_(1)
    else:
        parameter.normal_(std=0.02)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
