"""Floating-point operations per image, by formula. A multiply-add counts as two.

As in torch's `FlopCounterMode`, matrix products, convolutions and attention count; norms,
activations and other elementwise work do not.
"""

from diffusers import AutoencoderKLFlux2
from transformers import GptOssConfig

from lens_core.training.flops import forward_flops
from lens_core.transformer import LensTransformer2DModel


def denoiser_flops(
    transformer: LensTransformer2DModel, image_tokens: int, text_tokens: int, batch: int = 1
) -> int:
    """Return the operations of one forward pass of one branch, with nothing cached."""
    return batch * forward_flops(transformer.config, image_tokens, text_tokens)


def encoder_flops(config: GptOssConfig, tokens: int, batch: int = 1) -> int:
    """Return the operations to encode `tokens` tokens (prefix included): all layers, no head.

    Attention counts all pairs because all are computed; masks are applied afterwards.
    """
    width, dim = config.hidden_size, config.head_dim
    heads, shared = config.num_attention_heads * dim, config.num_key_value_heads * dim
    projections = width * (heads + 2 * shared) + heads * width
    router = width * config.num_local_experts
    experts = config.num_experts_per_tok * 3 * width * config.intermediate_size
    per_token = 2 * (projections + router + experts)
    attention = 4 * heads * tokens**2
    return int(batch * config.num_hidden_layers * (tokens * per_token + attention))


def decoder_flops(vae: AutoencoderKLFlux2, pixels: int, batch: int = 1) -> int:
    """Return the operations to decode an image of `pixels` pixels, from 1/64 as many latents."""
    config = vae.config
    widths = tuple(config.decoder_block_out_channels or config.block_out_channels)[::-1]
    area = pixels // 4 ** (len(widths) - 1)
    latent, wide = config.latent_channels, widths[0]
    total = _conv(area, latent, wide)
    if config.use_post_quant_conv:
        total += _conv(area, latent, latent, side=1)
    total += 2 * _residual(area, wide, wide)
    if config.mid_block_add_attention:
        total += 4 * _conv(area, wide, wide, side=1) + 4 * area**2 * wide
    before = wide
    for level, width in enumerate(widths):
        for layer in range(config.layers_per_block + 1):
            total += _residual(area, before if layer == 0 else width, width)
        if level < len(widths) - 1:
            area *= 4
            total += _conv(area, width, width)
        before = width
    return batch * (total + _conv(area, before, config.out_channels))


def generation_flops(
    transformer: LensTransformer2DModel,
    encoder: GptOssConfig,
    vae: AutoencoderKLFlux2,
    pixels: int,
    prompt_tokens: int,
    text_tokens: int,
    steps: int,
    guided: bool,
    batch: int = 1,
) -> int:
    """Return the operations of a whole call: encode one prompt, sample and decode `batch` images.

    Args:
        transformer: The denoiser.
        encoder: Configuration of the text encoder.
        vae: The autoencoder.
        pixels: Pixels per image.
        prompt_tokens: Number of tokens the encoder reads, prefix included.
        text_tokens: Number of text tokens the denoiser reads.
        steps: Number of sampler steps.
        guided: Whether the branch without text runs too.
        batch: Number of images.
    """
    image_tokens = pixels // (4 ** (len(vae.config.block_out_channels) - 1) * 4)
    step = denoiser_flops(transformer, image_tokens, text_tokens)
    if guided:
        step += denoiser_flops(transformer, image_tokens, 0)
    drawing = steps * step + decoder_flops(vae, pixels)
    return encoder_flops(encoder, prompt_tokens) + batch * drawing


def _conv(area: int, inputs: int, outputs: int, side: int = 3) -> int:
    return 2 * area * inputs * outputs * side * side


def _residual(area: int, inputs: int, outputs: int) -> int:
    shortcut = _conv(area, inputs, outputs, side=1) if inputs != outputs else 0
    return _conv(area, inputs, outputs) + _conv(area, outputs, outputs) + shortcut
