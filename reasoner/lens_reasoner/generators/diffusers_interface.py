"""What a diffusers pipeline supports, read from its signature and components."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_reasoner.errors import GeneratorError
from lens_reasoner.generator import Capabilities, OnUnsupported, Size
from lens_reasoner.generators.diffusers_presets import DiffusersPreset
from lens_reasoner.types import GenerationSettings

_GUIDANCE = ("guidance_scale", "true_cfg_scale", "distilled_guidance_scale")
_OURS = {
    "prompt",
    "negative_prompt",
    "height",
    "width",
    "num_inference_steps",
    "num_images_per_prompt",
    "generator",
    "output_type",
    "return_dict",
}
_NOT_JSON = ("image", "latents", "embeds", "mask", "callback", "kwargs", "adapter", "padding")
_LARGEST_TOKENIZER = 10**6


@dataclass(frozen=True)
class PipelineInterface:
    """How to call one pipeline.

    Attributes:
        preset: What is known about its family.
        defaults: Default of each argument of its `__call__`.
        guidance_argument: The argument for the guidance scale; empty if there is none.
        guidance_scale: The default guidance scale; None if there is none.
        negative_prompt: Whether a negative prompt has an effect.
        num_inference_steps: The default number of steps.
        native_size: The default (width, height) in pixels.
        size_multiple: Width and height must be multiples of this, in pixels.
        max_prompt_tokens: Number of prompt tokens that are read; None if unknown.
        extra: Arguments that can be passed through by name.
    """

    preset: DiffusersPreset
    defaults: Mapping[str, Any]
    guidance_argument: str
    guidance_scale: float | None
    negative_prompt: bool
    num_inference_steps: int | None
    native_size: Size | None
    size_multiple: int
    max_prompt_tokens: int | None
    extra: tuple[str, ...]

    @classmethod
    def of(cls, pipeline: Any, preset: DiffusersPreset) -> PipelineInterface:
        """Inspect a pipeline.

        Raises:
            GeneratorError: It does not generate images from a prompt.
        """
        defaults = _defaults(pipeline)
        if "prompt" not in defaults:
            raise GeneratorError(
                f"{type(pipeline).__name__} takes no prompt.",
                hint="Give a diffusers text-to-image pipeline.",
            )
        argument = _guidance_argument(pipeline, preset, defaults)
        scale = preset.guidance_scale
        if scale is None and argument:
            scale = defaults[argument]
        guided = bool(argument) or (preset.guider and _enabled(pipeline.guider))
        native = _native_size(pipeline, preset, defaults)
        return cls(
            preset=preset,
            defaults=defaults,
            guidance_argument=argument,
            guidance_scale=scale if guided else None,
            negative_prompt=guided and _takes_negative(argument, defaults),
            num_inference_steps=preset.num_inference_steps or defaults.get("num_inference_steps"),
            native_size=native,
            size_multiple=_size_multiple(pipeline, preset),
            max_prompt_tokens=_prompt_tokens(pipeline, preset, defaults),
            extra=_extra(pipeline, defaults, argument),
        )

    def capabilities(self, *, batch_size: int, on_unsupported: OnUnsupported) -> Capabilities:
        """The capabilities, as the loop's `Capabilities`."""
        sized = {"height", "width"} <= self.defaults.keys()
        return Capabilities(
            seed="generator" in self.defaults,
            negative_prompt=self.negative_prompt,
            steps="num_inference_steps" in self.defaults,
            guidance=self.guidance_scale is not None,
            native_size=self.native_size,
            sizes=None if sized else (),
            preferred_sizes=self.preset.sizes,
            multiple_of=self.size_multiple,
            max_images=batch_size if "num_images_per_prompt" in self.defaults else 1,
            image_input="image" in self.defaults,
            mask="mask_image" in self.defaults,
            max_prompt_tokens=self.max_prompt_tokens,
            extra=self.extra,
            on_unsupported=on_unsupported,
        )

    def fill(self, settings: GenerationSettings) -> GenerationSettings:
        """The settings with defaults filled in."""
        width, height = self.native_size or (None, None)
        return settings.model_copy(
            update={
                "width": settings.width or width,
                "height": settings.height or height,
                "num_inference_steps": settings.num_inference_steps or self.num_inference_steps,
                "guidance_scale": self.guidance_scale
                if settings.guidance_scale is None
                else settings.guidance_scale,
            }
        )

    def negative_acts(self, settings: GenerationSettings) -> bool:
        """Whether a negative prompt has an effect at the guidance scale of filled settings."""
        scale = settings.guidance_scale
        return scale is not None and scale > self.preset.guidance_off

    def arguments(self, settings: GenerationSettings) -> dict[str, Any]:
        """The arguments of a call with filled settings, except prompt and random generator."""
        chosen: dict[str, Any] = {
            "height": settings.height,
            "width": settings.width,
            "num_inference_steps": settings.num_inference_steps,
            "output_type": "np",
        }
        if self.guidance_argument:
            chosen[self.guidance_argument] = settings.guidance_scale
        if self.negative_prompt and self.negative_acts(settings):
            chosen["negative_prompt"] = settings.negative_prompt or self.preset.blank_negative
        known = {
            name: value
            for name, value in chosen.items()
            if name in self.defaults and value is not None
        }
        return known | settings.extra


def _defaults(pipeline: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: None if p.default is p.empty else p.default for p in named if p.name != "self"}


def _guidance_argument(pipeline: Any, preset: DiffusersPreset, defaults: Mapping[str, Any]) -> str:
    if preset.guider:
        return ""
    if preset.guidance_argument is not None:
        return preset.guidance_argument
    found = next((name for name in _GUIDANCE if defaults.get(name) is not None), "")
    # Transformers without a guidance input ignore the scale, unless the pipeline does the guidance.
    embedded = _config(pipeline, "transformer").get("guidance_embeds", True)
    guides = found == "true_cfg_scale" or hasattr(type(pipeline), "do_classifier_free_guidance")
    return found if embedded or guides else ""


def _enabled(guider: Any) -> bool:
    return guider is not None and bool(getattr(guider, "_enabled", True))


def _takes_negative(argument: str, defaults: Mapping[str, Any]) -> bool:
    if "negative_prompt" not in defaults or argument == "distilled_guidance_scale":
        return False
    # Where both scales exist, the negative prompt belongs to the true one.
    return argument == "true_cfg_scale" or "true_cfg_scale" not in defaults


def _native_size(
    pipeline: Any, preset: DiffusersPreset, defaults: Mapping[str, Any]
) -> Size | None:
    if preset.sizes:
        return preset.sizes[0]
    if isinstance(defaults.get("width"), int) and isinstance(defaults.get("height"), int):
        return defaults["width"], defaults["height"]
    sample = getattr(pipeline, "default_sample_size", None)
    sample = sample or _config(pipeline, "unet").get("sample_size")
    sample = sample or _config(pipeline, "transformer").get("sample_size")
    scale = getattr(pipeline, "vae_scale_factor", None)
    if not isinstance(sample, int) or not isinstance(scale, int):
        return None
    return sample * scale, sample * scale


def _size_multiple(pipeline: Any, preset: DiffusersPreset) -> int:
    scale = getattr(pipeline, "vae_scale_factor", None)
    if not isinstance(scale, int):
        return 1
    if preset.size_multiple is not None:
        return scale * preset.size_multiple
    processor = _config(pipeline, "image_processor").get("vae_scale_factor", scale)
    patch = getattr(pipeline, "patch_size", 1)
    return max(int(processor), scale * (patch if isinstance(patch, int) else 1))


def _prompt_tokens(
    pipeline: Any, preset: DiffusersPreset, defaults: Mapping[str, Any]
) -> int | None:
    tokenizer = prompt_tokenizer(pipeline, preset)
    own = getattr(tokenizer, "model_max_length", None)
    limits: tuple[Any, ...] = (own,)
    if tokenizer is getattr(pipeline, preset.prompt_tokenizer, None):
        limits = (defaults.get("max_sequence_length"), pipeline_limit(pipeline), own)
    found = next((n for n in limits if isinstance(n, int) and 0 < n < _LARGEST_TOKENIZER), None)
    return None if found is None else max(1, found - preset.template_tokens)


def pipeline_limit(pipeline: Any) -> int | None:
    """The length at which a pipeline without an argument for it truncates prompts."""
    limit = getattr(pipeline, "tokenizer_max_length", None)
    return limit if isinstance(limit, int) else None


def prompt_tokenizer(pipeline: Any, preset: DiffusersPreset) -> Any:
    """The tokenizer that measures prompts; None if there is none."""
    chosen = getattr(pipeline, preset.prompt_tokenizer, None)
    return chosen if chosen is not None else getattr(pipeline, "tokenizer", None)


def _extra(pipeline: Any, defaults: Mapping[str, Any], argument: str) -> tuple[str, ...]:
    embedded = _config(pipeline, "transformer").get("guidance_embeds", True)
    names = [
        name
        for name in defaults
        if name not in _OURS
        and name != argument
        and not any(word in name for word in _NOT_JSON)
        and (embedded or name not in {"guidance_scale", "distilled_guidance_scale"})
    ]
    return tuple(sorted(names))


def _config(pipeline: Any, component: str) -> Mapping[str, Any]:
    config = getattr(getattr(pipeline, component, None), "config", None)
    return config if isinstance(config, Mapping) else {}
