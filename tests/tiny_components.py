"""A randomly initialised Lens of a few thousand weights with a tokenizer of its own.

It has the shape of a small checkpoint: other prefix length, other latent channels, other defaults.
"""

from functools import cache

import torch
from diffusers import AutoencoderKLFlux2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GptOssConfig, PreTrainedTokenizerFast

from lens_core.chat import render_image_prompt
from lens_core.loading import LensDefaults
from lens_core.pipeline import LensPipeline
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import LensTextEncoder
from lens_core.transformer import LensTransformer2DModel

CONTROL = [
    "<|endoftext|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|return|>",
    "<|call|>",
]
TEXTS = ["two red apples left of a blue cup", "a small green star above a yellow house"]


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([render_image_prompt(text).text for text in TEXTS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|return|>", pad_token="<|endoftext|>"
    )


def tiny_text_encoder(layers: int = 2, has_lm_head: bool = True) -> LensTextEncoder:
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=16,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=5,
        tie_word_embeddings=False,
    )
    # The library draws weights too small to tell layers and prompts apart.
    model = LensTextEncoder(config, has_lm_head=has_lm_head).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tiny_transformer(**changes: object) -> LensTransformer2DModel:
    torch.manual_seed(1)
    config = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "inner_dim": 32,
        "enc_hidden_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "selected_layer_index": (0, 1),
    } | changes
    return LensTransformer2DModel(**config).eval()


def tiny_vae(latent_channels: int = 4) -> AutoencoderKLFlux2:
    torch.manual_seed(2)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
    ).eval()
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def tiny_pipeline() -> LensPipeline:
    pipeline = LensPipeline(
        transformer=tiny_transformer(),
        text_encoder=tiny_text_encoder(),
        vae=tiny_vae(),
        tokenizer=tiny_tokenizer(),
        scheduler=default_scheduler(),
        defaults=LensDefaults(height=64, width=48, num_inference_steps=2, guidance_scale=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
