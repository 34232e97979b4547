"""Real diffusers pipelines with a few thousand random weights and tokenizers of their own.

The shapes follow the tests of diffusers; nothing is downloaded.
"""

from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
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
from tokenizers import pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TURNS = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _bytes() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token per byte."""
    vocab = {token: n for n, token in enumerate(["<|endoftext|>", *_bytes()])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(TURNS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def clip_tokenizer() -> CLIPTokenizer:
    """One token per byte, cut at 77."""
    letters = _bytes()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>"]
    vocab = {token: n for n, token in enumerate([*tokens, "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """One token per letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0)


def _settle(module: Any, seed: int) -> Any:
    """Weights drawn anew and large enough to tell prompts apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
    return module.eval()


def _qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {
                "mrope_section": [1, 1, 2],
                "rope_type": "default",
                "type": "default",
            },
            "rope_theta": 1000000.0,
            "vocab_size": 300,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        vocab_size=300,
    )
    return _settle(Qwen2_5_VLForConditionalGeneration(config), 1)


def _qwen3(layers: int = 2) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=300,
    )
    return _settle(Qwen3ForCausalLM(config), 2)


def _t5(size: int) -> T5EncoderModel:
    config = T5Config(
        d_model=size,
        d_ff=16,
        d_kv=8,
        num_heads=2,
        num_layers=1,
        vocab_size=400,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return _settle(T5EncoderModel(config), 3)


def _clip(seed: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=16,
        vocab_size=514,
    )
    return _settle(CLIPTextModelWithProjection(config), seed)


def _plain_vae(latent_channels: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    return _settle(vae, 4)


def _scheduler(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)


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
        scheduler=_scheduler(use_dynamic_shifting=True),
        vae=_settle(vae, 5),
        text_encoder=_qwen_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=_settle(transformer, 6),
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
        scheduler=_scheduler(use_dynamic_shifting=True),
        vae=_settle(vae, 7),
        text_encoder=_qwen3(28),
        tokenizer=qwen_tokenizer(),
        transformer=_settle(transformer, 8),
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
        scheduler=_scheduler(),
        vae=_plain_vae(4),
        text_encoder=_qwen3(),
        tokenizer=qwen_tokenizer(),
        transformer=_settle(transformer, 9),
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
        transformer=_settle(transformer, 10),
        scheduler=_scheduler(),
        vae=_plain_vae(4),
        text_encoder=_clip(11),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(12),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(32),
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
        scheduler=_scheduler(),
        vae=_settle(vae, 13),
        text_encoder=_qwen_vl(),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=_t5(16),
        tokenizer_2=ByT5Tokenizer(),
        transformer=_settle(transformer, 14),
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
        vae=_plain_vae(4),
        text_encoder=_settle(CLIPTextModel(config), 15),
        tokenizer=clip_tokenizer(),
        unet=_settle(unet, 16),
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
    config = _clip(11).config
    return FluxPipeline(
        scheduler=_scheduler(),
        vae=_plain_vae(4),
        text_encoder=_settle(CLIPTextModel(config), 17),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=t5_tokenizer(),
        transformer=_settle(transformer, 18),
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
