"""Arguments and methods of diffusers' pipelines: those translated here, and those not supported.

The tables map the name of each unsupported one to what a user should do instead.
"""

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
_LORA_SCALE = "set_adapters(names, weights) sets the weights of LoRAs"
_CALLBACK = "use callback_on_step_end or on_step, called after each step"
_VAE = "it is a method of the autoencoder: pipeline.vae."

CALL_ARGUMENTS: Mapping[str, str] = {
    "attention_kwargs": _LORA_SCALE,
    "joint_attention_kwargs": _LORA_SCALE,
    "cross_attention_kwargs": _LORA_SCALE,
    "callback": _CALLBACK,
    "callback_steps": _CALLBACK,
    "control_image": "there is no ControlNet for Lens",
    "eta": "Lens is sampled without new noise",
    "ip_adapter_image": "there is no IP-Adapter for Lens",
    "padding_mask_crop": "crop image and mask, generate, and paste the result",
    "timesteps": "give sigmas=, noise levels before the time shift",
    "true_cfg_scale": "use guidance_scale with negative_prompt",
}
"""Arguments of a pipeline's call."""

LOADING_ARGUMENTS: Mapping[str, str] = {
    "custom_pipeline": "LensPipeline is the only pipeline of Lens",
    "max_memory": _PLAN,
    "offload_folder": _PLAN,
    "offload_state_dict": _PLAN,
    "quantization_config": _QUANTISED,
}
"""Arguments of `from_pretrained`."""

LORA_LOADING_ARGUMENTS: Mapping[str, str] = {
    "low_cpu_mem_usage": "only the LoRA is read",
    "prefix": "key styles are recognised",
    "use_safetensors": "Lens reads nothing else",
}
"""Arguments of `load_lora_weights`."""

SAVING_ARGUMENTS: Mapping[str, str] = {
    "push_to_hub": "save to a folder, and upload that with huggingface_hub.upload_folder",
}
"""Arguments of `save_pretrained`."""

PIPELINE_METHODS: Mapping[str, str] = {
    "bfloat16": "pipeline.to(torch.bfloat16)",
    "cuda": "pipeline.to('cuda')",
    "disable_vae_slicing": f"{_VAE}disable_slicing()",
    "disable_vae_tiling": f"{_VAE}disable_tiling()",
    "enable_freeu": "it changes the skip connections of a U-Net, which Lens does not have",
    "enable_vae_slicing": f"{_VAE}enable_slicing()",
    "enable_vae_tiling": f"{_VAE}enable_tiling()",
    "fuse_qkv_projections": "they are fused in Lens as it was published",
    "image_processor": "decode(latents, height, width) gives pixels in [0, 1]",
    "load_ip_adapter": "there is no IP-Adapter for Lens",
    "load_textual_inversion": "there is no textual inversion for Lens",
    "lora_state_dict": "load_lora_weights reads files of every known key style itself",
    "set_lora_device": "LoRAs are on the denoiser's device; delete_adapters() frees unused ones",
    "vae_scale_factor": "size_multiple is the side of a token in pixels",
}
"""Methods and properties of a pipeline."""


def refuse_unsupported(
    caller: str, arguments: Mapping[str, Any], advice: Mapping[str, str]
) -> None:
    """Refuse keyword arguments that nothing takes.

    Args:
        caller: The method, for the message.
        arguments: By name, as they were given.
        advice: What to do instead, by name, for those of diffusers. As None and False ask for
            nothing there, they are let through.

    Raises:
        ParameterError: There are any; names each, with the advice.
    """
    refused = [name for name, value in sorted(arguments.items()) if value or name not in advice]
    if refused:
        named = [f"{name} ({advice[name]})" if name in advice else name for name in refused]
        raise ParameterError(f"{caller} does not know {', '.join(named)}")


def pop_hub(arguments: MutableMapping[str, Any], hub: Hub | None) -> Hub | None:
    """Remove `cache_dir`, `local_files_only` and `token`, and return the hub they describe.

    Raises:
        ParameterError: Any of them is given together with a hub.
    """
    fields = {"cache_dir": "cache", "local_files_only": "local_only", "token": "token"}
    given = {field: arguments.pop(name) for name, field in fields.items() if name in arguments}
    if not given:
        return hub
    if hub is not None:
        raise ParameterError(f"hub={hub!r} has its own {sorted(given)}; give one or the other")
    cache = given.pop("cache", None)
    return Hub(cache=None if cache is None else Path(cache), **given)


def pop_device(
    arguments: MutableMapping[str, Any], device: str | torch.device | None
) -> str | torch.device | None:
    """Remove `device_map`, and return the device it names, or `device` without it.

    Raises:
        ParameterError: It names several devices or a strategy, or contradicts `device`.
    """
    if (where := arguments.pop("device_map", None)) is None:
        return device
    try:
        mapped = torch.device(where)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(f"device_map {where!r} is not known: {_PLAN}") from error
    if device is not None and torch.device(device) != mapped:
        raise ParameterError(f"device {device} and device_map {where} contradict each other")
    return mapped


def pop_implied(arguments: MutableMapping[str, Any]) -> None:
    """Remove arguments that ask for what Lens does anyway.

    Raises:
        CheckpointError: A pickle was asked for.
    """
    if not arguments.pop("use_safetensors", True):
        raise CheckpointError("use_safetensors=False would read a pickle; Lens never does")
    arguments.pop("low_cpu_mem_usage", None)
