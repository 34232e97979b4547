"""Real diffusers pipelines with a few thousand random weights and tokenizers of their own.

The shapes follow the tests of diffusers; nothing is downloaded.
"""

from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    ByT5Tokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
)

from tiny_diffusers_parts import (
    clip,
    clip_tokenizer,
    plain_vae,
    qwen3,
    qwen_tokenizer,
    qwen_vl,
    scheduler,
    settle,
    t5,
    t5_tokenizer,
)


def qwen_image() -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return QwenImagePipeline(
        scheduler=scheduler(use_dynamic_shifting=True),
        vae=settle(vae, 5),
        text_encoder=qwen_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=settle(transformer, 6),
    )


def flux2_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    return Flux2KleinPipeline(
        scheduler=scheduler(use_dynamic_shifting=True),
        vae=settle(vae, 7),
        text_encoder=qwen3(28),
        tokenizer=qwen_tokenizer(),
        transformer=settle(transformer, 8),
        is_distilled=is_distilled,
    )


def z_image() -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    return ZImagePipeline(
        scheduler=scheduler(),
        vae=plain_vae(4),
        text_encoder=qwen3(),
        tokenizer=qwen_tokenizer(),
        transformer=settle(transformer, 9),
    )


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
    )
    return StableDiffusion3Pipeline(
        transformer=settle(transformer, 10),
        scheduler=scheduler(),
        vae=plain_vae(4),
        text_encoder=clip(11),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(12),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=t5_tokenizer(),
    )


def hunyuan_image(distilled: bool = False) -> HunyuanImagePipeline:
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=distilled,
        text_embed_dim=16,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=32,
        scaling_factor=1.0,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    guiders = {"guider": None, "ocr_guider": None}
    if not distilled:
        guiders = {
            "guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=5),
            "ocr_guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=38),
        }
    return HunyuanImagePipeline(
        scheduler=scheduler(),
        vae=settle(vae, 13),
        text_encoder=qwen_vl(),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=t5(16),
        tokenizer_2=ByT5Tokenizer(),
        transformer=settle(transformer, 14),
        **guiders,
    )


def sd15(flagged: bool = False) -> StableDiffusionPipeline:
    """An older pipeline without a preset; its safety checker may flag everything."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=16,
    )
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=514,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    checker = None
    if flagged:
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "image_size": 32,
            "patch_size": 16,
        }
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
        checker.concept_embeds_weights.data.fill_(-2.0)
    return StableDiffusionPipeline(
        vae=plain_vae(4),
        text_encoder=settle(CLIPTextModel(config), 15),
        tokenizer=clip_tokenizer(),
        unet=settle(unet, 16),
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )


def flux1(guidance_embeds: bool) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    config = clip(11).config
    return FluxPipeline(
        scheduler=scheduler(),
        vae=plain_vae(4),
        text_encoder=settle(CLIPTextModel(config), 17),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(),
        transformer=settle(transformer, 18),
    )


BUILDERS = {
    "qwen-image": qwen_image,
    "flux2-klein": flux2_klein,
    "z-image": z_image,
    "sd3.5": sd3,
    "hunyuan-image": hunyuan_image,
}


def quiet(pipeline: Any) -> Any:
    """The pipeline without its progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pipeline(name: str) -> Any:
    """The pipeline of a family."""
    torch.manual_seed(0)
    return quiet(BUILDERS[name]())
