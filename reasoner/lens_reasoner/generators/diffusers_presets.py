"""What is known about popular diffusers pipelines beyond their signatures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from lens_reasoner.errors import UnsupportedSettingError
from lens_reasoner.generator import Size

PresetName = Literal[
    "generic", "qwen-image", "flux2-klein", "z-image", "z-image-turbo", "sd3.5", "hunyuan-image"
]


@dataclass(frozen=True)
class DiffusersPreset:
    """How to call one family of pipelines.

    Attributes:
        name: Name of the family.
        pipelines: Names of the pipeline classes.
        guidance_argument: The argument for `guidance_scale`; None means to look for one, and an
            empty string that there is none.
        guider: Whether the pipeline's guider component holds the scale instead.
        guidance_scale: The scale recommended for the published weights; None means the pipeline's
            default.
        guidance_off: The largest scale at which guidance, and with it a negative prompt, has no
            effect.
        blank_negative: Negative prompt to send if guidance is on and the request has none, because
            pipelines with `true_cfg_scale` otherwise skip guidance; None sends nothing.
        num_inference_steps: Recommended steps; None means the pipeline's default.
        sizes: Recommended sizes as (width, height), the default first; empty means the pipeline's
            default.
        size_multiple: Sizes must be multiples of this many latent pixels: 2 where transformers pack
            latents two by two, None to ask the pipeline.
        template_tokens: Tokens that the prompt template takes of `max_sequence_length`.
        prompt_tokenizer: The component whose token limit counts, if there are several.
    """

    name: str
    pipelines: tuple[str, ...] = ()
    guidance_argument: str | None = None
    guider: bool = False
    guidance_scale: float | None = None
    guidance_off: float = 1.0
    blank_negative: str | None = None
    num_inference_steps: int | None = None
    sizes: tuple[Size, ...] = ()
    size_multiple: int | None = None
    template_tokens: int = 0
    prompt_tokenizer: str = "tokenizer"


def _with_turned(*sizes: Size) -> tuple[Size, ...]:
    turned = ((height, width) for width, height in sizes if width != height)
    return (*sizes, *turned)


GENERIC = DiffusersPreset(name="generic")

QWEN_IMAGE = DiffusersPreset(
    name="qwen-image",
    pipelines=("QwenImagePipeline",),
    guidance_argument="true_cfg_scale",
    guidance_scale=4.0,
    blank_negative=" ",
    num_inference_steps=50,
    sizes=_with_turned((1328, 1328), (1664, 928), (1472, 1104), (1584, 1056)),
    size_multiple=2,
    template_tokens=5,
)
FLUX2_KLEIN = DiffusersPreset(
    name="flux2-klein",
    pipelines=("Flux2KleinPipeline",),
    guidance_argument="guidance_scale",
    guidance_scale=4.0,
    num_inference_steps=50,
    sizes=_with_turned((1024, 1024), (1360, 768), (1184, 880), (1248, 832)),
    size_multiple=2,
    template_tokens=12,
)
Z_IMAGE = DiffusersPreset(
    name="z-image",
    pipelines=("ZImagePipeline",),
    guidance_argument="guidance_scale",
    guidance_scale=5.0,
    guidance_off=0.0,
    num_inference_steps=50,
    sizes=_with_turned((1024, 1024), (1280, 720), (1152, 864), (1248, 832)),
    size_multiple=2,
    template_tokens=8,
)
Z_IMAGE_TURBO = replace(
    Z_IMAGE, name="z-image-turbo", pipelines=(), guidance_scale=0.0, num_inference_steps=8
)
SD3_5 = DiffusersPreset(
    name="sd3.5",
    pipelines=("StableDiffusion3Pipeline",),
    guidance_argument="guidance_scale",
    guidance_scale=4.5,
    num_inference_steps=28,
    sizes=_with_turned((1024, 1024), (1344, 768), (1152, 896), (1216, 832)),
    size_multiple=2,
    template_tokens=1,
    prompt_tokenizer="tokenizer_3",
)
HUNYUAN_IMAGE = DiffusersPreset(
    name="hunyuan-image",
    pipelines=("HunyuanImagePipeline",),
    guider=True,
    guidance_scale=3.5,
    num_inference_steps=50,
    sizes=_with_turned((2048, 2048), (2560, 1536), (2304, 1792)),
    size_multiple=2,
    template_tokens=2,
)

PRESETS = {
    preset.name: preset
    for preset in (
        GENERIC,
        QWEN_IMAGE,
        FLUX2_KLEIN,
        Z_IMAGE,
        Z_IMAGE_TURBO,
        SD3_5,
        HUNYUAN_IMAGE,
    )
}
"""All presets by name."""


def choose_preset(
    pipeline: Any, name: str, choice: str | DiffusersPreset | None
) -> DiffusersPreset:
    """Choose the preset for a pipeline and adjust it to the pipeline's variant.

    Args:
        pipeline: The loaded pipeline.
        name: Its model id or folder, the only sign of Z-Image's turbo variant.
        choice: A preset, the name of one, or None to choose by the pipeline's class.

    Raises:
        UnsupportedSettingError: There is no preset with that name.
    """
    if isinstance(choice, DiffusersPreset):
        return choice
    if choice is not None and choice not in PRESETS:
        raise UnsupportedSettingError(
            f"There is no diffusers preset {choice!r}.",
            setting="preset",
            value=choice,
            backend=name,
            hint=f"Choices: {', '.join(PRESETS)}.",
        )
    kind = type(pipeline).__name__
    found = next((preset for preset in PRESETS.values() if kind in preset.pipelines), GENERIC)
    if found is Z_IMAGE and "turbo" in name.lower():
        found = Z_IMAGE_TURBO
    return _variant(PRESETS[choice] if choice else found, pipeline)


def _variant(preset: DiffusersPreset, pipeline: Any) -> DiffusersPreset:
    """Adjust the preset for few-step distilled weights, which pipelines mark in their config."""
    if preset.name == "flux2-klein" and pipeline.config.get("is_distilled"):
        # The pipeline then ignores guidance at any scale.
        return replace(preset, guidance_argument="", num_inference_steps=4)
    if preset.name == "hunyuan-image" and pipeline.transformer.config.guidance_embeds:
        return replace(
            preset,
            guider=False,
            guidance_argument="distilled_guidance_scale",
            guidance_scale=3.25,
            num_inference_steps=8,
        )
    return preset
