"""A Lens large enough that memory has a shape, small enough to run in a second; random weights."""

import torch
from diffusers import AutoencoderKLFlux2
from transformers import GptOssConfig

from lens_core.checkpoints.formats import mxfp4
from lens_core.loading import LensDefaults
from lens_core.packed_experts import Mxfp4Packing, PackedExperts
from lens_core.pipeline import LensPipeline
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel
from tiny_components import tiny_tokenizer

LAYERS = 6


def mid_transformer() -> LensTransformer2DModel:
    torch.manual_seed(11)
    return LensTransformer2DModel(
        num_layers=LAYERS,
        in_channels=16,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=64,
        inner_dim=256,
        enc_hidden_dim=128,
        selected_layer_index=(0, 1, 2, 5),
    ).eval()


def mid_text_encoder() -> LensTextEncoder:
    """Its experts are packed as MXFP4."""
    torch.manual_seed(12)
    config = GptOssConfig(
        vocab_size=400,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=5,
        tie_word_embeddings=False,
    )
    encoder = LensTextEncoder(config, True, [(Mxfp4Packing(), Mxfp4Packing())] * LAYERS).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for layer in encoder.model.layers:
        _fill(layer.mlp.experts)
    return encoder


def _fill(experts: PackedExperts) -> None:
    for name, rows in (("gate_up_proj", 256), ("down_proj", 128)):
        blocks, scales = mxfp4.pack(torch.randn(8, rows, 128) * 0.1)
        experts.get_buffer(f"{name}_blocks").copy_(blocks)
        experts.get_buffer(f"{name}_scales").copy_(scales)


def mid_vae() -> AutoencoderKLFlux2:
    torch.manual_seed(13)
    return AutoencoderKLFlux2(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=1024,
    ).eval()


def mid_pipeline() -> LensPipeline:
    pipeline = LensPipeline(
        mid_transformer(),
        mid_text_encoder(),
        mid_vae(),
        tiny_tokenizer(),
        default_scheduler(),
        LensDefaults(height=192, width=192, num_inference_steps=2, guidance_scale=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
