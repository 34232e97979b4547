"""Words of diffusers that are said otherwise here, and what to say."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch

from lens_core.checkpoints.hub import Hub
from lens_core.errors import CheckpointError, ParameterError

_QUANTISED = (
    "weights are read as they are stored; memory='6gb' or "
    "MemoryPlan(transformer_weights='fp8') rounds the denoiser"
)
_PLAN = "name one device ('cuda'), or let memory='auto' share a card; see docs/memory.md"
_LORA_SCALE = "set_adapters(names, weights) sets how strongly LoRAs work"
_CALLBACK = "callback_on_step_end is told after each step, and on_step"
_VAE = "it is a method of the autoencoder: pipeline.vae."

CALL: Mapping[str, str] = {
    "attention_kwargs": _LORA_SCALE,
    "joint_attention_kwargs": _LORA_SCALE,
    "cross_attention_kwargs": _LORA_SCALE,
    "callback": _CALLBACK,
    "callback_steps": _CALLBACK,
    "control_image": "there is no ControlNet for Lens",
    "eta": "Lens is sampled without new noise",
    "ip_adapter_image": "there is no IP-Adapter for Lens",
    "padding_mask_crop": "crop picture and mask, draw, and paste the result",
    "timesteps": "give sigmas=, noise levels before the time shift",
    "true_cfg_scale": "guidance_scale is the guidance, with negative_prompt",
}
"""What a call is asked for elsewhere."""

LOADING: Mapping[str, str] = {
    "custom_pipeline": "LensPipeline is the only pipeline of Lens",
    "max_memory": _PLAN,
    "offload_folder": _PLAN,
    "offload_state_dict": _PLAN,
    "quantization_config": _QUANTISED,
}
"""What loading is asked for elsewhere."""

LORA_LOADING: Mapping[str, str] = {
    "low_cpu_mem_usage": "only the LoRA is read",
    "prefix": "key styles are recognised",
    "use_safetensors": "Lens reads nothing else",
}
"""What loading a LoRA is asked for elsewhere."""

SAVING: Mapping[str, str] = {
    "push_to_hub": "save to a folder, and upload that with huggingface_hub.upload_folder",
}
"""What saving is asked for elsewhere."""

METHODS: Mapping[str, str] = {
    "bfloat16": "pipeline.to(torch.bfloat16)",
    "cuda": "pipeline.to('cuda')",
    "disable_vae_slicing": f"{_VAE}disable_slicing()",
    "disable_vae_tiling": f"{_VAE}disable_tiling()",
    "enable_freeu": "it changes the skip connections of a U-Net, and Lens has none",
    "enable_vae_slicing": f"{_VAE}enable_slicing()",
    "enable_vae_tiling": f"{_VAE}enable_tiling()",
    "fuse_qkv_projections": "they are fused in Lens as it was published",
    "image_processor": "decode(latents, height, width) gives pixels in [0, 1]",
    "load_ip_adapter": "there is no IP-Adapter for Lens",
    "load_textual_inversion": "there is no textual inversion for Lens",
    "lora_state_dict": "load_lora_weights reads files of every known key style itself",
    "set_lora_device": "LoRAs are where the denoiser is; delete_adapters() frees what is not used",
    "vae_scale_factor": "size_multiple is the side of a token in pixels",
}
"""What a pipeline is asked for elsewhere."""


def refuse_words(asked: str, words: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Refuse arguments that nothing takes.

    Args:
        asked: What was called.
        words: By name, as they were given.
        known: What to say instead, for those of diffusers; None and False ask for nothing there.

    Raises:
        ParameterError: There are any.
    """
    refused = [name for name, value in sorted(words.items()) if value or name not in known]
    if refused:
        said = [f"{name} ({known[name]})" if name in known else name for name in refused]
        raise ParameterError(f"{asked} does not know {', '.join(said)}")


def take_hub(words: MutableMapping[str, Any], hub: Hub | None) -> Hub | None:
    """The hub that is meant by `cache_dir`, `local_files_only` and `token`, which are taken out.

    Raises:
        ParameterError: There are any, and a hub too.
    """
    given = {
        name: words.pop(word)
        for word, name in (
            ("cache_dir", "cache"),
            ("local_files_only", "local_only"),
            ("token", "token"),
        )
        if word in words
    }
    if not given:
        return hub
    if hub is not None:
        raise ParameterError(f"hub={hub!r} has its own {sorted(given)}; give one or the other")
    cache = given.pop("cache", None)
    return Hub(cache=None if cache is None else Path(cache), **given)


def take_device(
    words: MutableMapping[str, Any], device: str | torch.device | None
) -> str | torch.device | None:
    """The device that is meant by `device_map`, which is taken out.

    Raises:
        ParameterError: It names several devices or a way to choose them, or another than `device`.
    """
    if (where := words.pop("device_map", None)) is None:
        return device
    try:
        meant = torch.device(where)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(f"device_map {where!r} is not known: {_PLAN}") from error
    if device is not None and torch.device(device) != meant:
        raise ParameterError(f"device {device} and device_map {where} contradict each other")
    return meant


def take_always(words: MutableMapping[str, Any]) -> None:
    """Take out what is so whether or not it is asked for.

    Raises:
        CheckpointError: A pickle was asked for.
    """
    if not words.pop("use_safetensors", True):
        raise CheckpointError("use_safetensors=False would read a pickle; Lens never does")
    words.pop("low_cpu_mem_usage", None)
