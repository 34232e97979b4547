"""From one file layout to another, component by component."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from torch import Tensor

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints import names
from lens_core.checkpoints.comfy import note_bytes
from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.convert_encoder import (
    write_comfy_encoder,
    write_gguf_encoder,
    write_mxfp4_encoder,
    write_plain_encoder,
)
from lens_core.checkpoints.convert_lora import write_comfy_lora
from lens_core.checkpoints.denoiser import STEM, blank_denoiser, open_denoiser
from lens_core.checkpoints.encoder import blank_text_encoder, open_text_encoder
from lens_core.checkpoints.formats import mxfp8
from lens_core.checkpoints.inspect import CheckpointInfo, component_of, inspect_checkpoint
from lens_core.checkpoints.spool import spool_beside
from lens_core.checkpoints.vae import blank_vae, open_vae
from lens_core.checkpoints.weights import LazyTensors, check_tensors
from lens_core.checkpoints.writers import NamedTensors, write_file, write_folder, write_gguf
from lens_core.errors import ParameterError

HIGH_PRECISION = (
    "img_in",
    "txt_in",
    "proj_out",
    "time_text_embed",
    "norm_out",
    "img_mod",
    "txt_mod",
)
"""Parts of the denoiser that show in pictures when rounded further than bfloat16."""

GGUF_ARCHITECTURE = "lens"

_Writer = Callable[["Target", LazyTensors, dict[str, Any]], None]


@dataclass(frozen=True)
class Target:
    """What to write.

    Attributes:
        path: A file or a folder, as the layout has it.
        dtype: Of everything that is not packed.
        gguf_type: GGML type of large matrices; Q8_0 by default, and MXFP4 for the experts of a text
            encoder.
    """

    path: Path
    dtype: torch.dtype = torch.bfloat16
    gguf_type: str | None = None


def layouts(component: str) -> tuple[str, ...]:
    """Names of the layouts that a component can be written in."""
    return _LAYOUTS.get(component, ())


def convert(
    source: str | Path, target: Target, layout: str, config: Config | None = None
) -> CheckpointInfo:
    """Write a component, or a LoRA, in another layout.

    A text encoder's packed experts are not rounded again where the other layout can hold them.

    Args:
        source: File or folder of one component.
        target: Where to, and in which precision.
        layout: One of `layouts(component)`.
        config: As for loading, for files that say nothing themselves.

    Returns:
        What was written.

    Raises:
        CheckpointError: An incomplete source, or a target that exists.
        ParameterError: A layout that this component does not have.
        PrecisionError: float16.
    """
    check_dtype(target.dtype)
    component = component_of(source).component
    if layout not in layouts(component):
        raise ParameterError(
            f"{source} is a {component}, which can be written as "
            f"{', '.join(layouts(component)) or 'nothing else'}, not {layout!r}"
        )
    _CONVERTERS[component](Path(source), target, layout, config)
    return inspect_checkpoint(target.path)[0]


def _convert_denoiser(source: Path, target: Target, layout: str, config: Config | None) -> None:
    opened = open_denoiser(source, config)
    model = blank_denoiser(opened)
    check_tensors(model, source, opened.tensors)
    _DENOISER[layout](target, opened.tensors, _config(model))


def _convert_vae(source: Path, target: Target, layout: str, config: Config | None) -> None:
    opened = open_vae(source, config)
    model = blank_vae(opened)
    check_tensors(model, source, opened.tensors)
    _VAE[layout](target, opened.tensors, _config(model))


def _convert_encoder(source: Path, target: Target, layout: str, config: Config | None) -> None:
    opened = open_text_encoder(source, config)
    check_tensors(blank_text_encoder(opened), source, opened.tensors, opened.optional)
    if layout == "gguf":
        write_gguf_encoder(opened, target.path, target.dtype, target.gguf_type or "MXFP4")
    else:
        _ENCODER[layout](opened, target.path, target.dtype)


def _convert_lora(source: Path, target: Target, layout: str, config: Config | None) -> None:
    _LORA[layout](source, target.path, target.dtype)


def _config(model: ConfigMixin) -> dict[str, Any]:
    stated = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {"_class_name": type(model).__name__} | stated


def _cast(tensors: LazyTensors, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Parameters in a precision; the autoencoder's statistics stay float32."""
    for name, tensor in tensors.items():
        value = tensor.load()
        yield name, value if name.startswith("bn.") else value.to(dtype)


def _folder(target: Target, tensors: LazyTensors, config: dict[str, Any]) -> None:
    write_folder(target.path, STEM, _cast(tensors, target.dtype), config)


def _single(target: Target, tensors: LazyTensors, config: dict[str, Any]) -> None:
    with spool_beside(target.path) as spool:
        write_file(target.path, spool.tensors(_cast(tensors, target.dtype)), config)


def _mxfp8_file(target: Target, tensors: LazyTensors, config: dict[str, Any]) -> None:
    def packed() -> NamedTensors:
        for name, value in _cast(tensors, target.dtype):
            if not _may_be_rounded(name, value.shape, mxfp8.GROUP):
                yield name, value
                continue
            weight, scales = mxfp8.pack(value)
            base = name.removesuffix(".weight")
            yield name, weight
            yield f"{base}.weight_scale", scales
            yield f"{base}.comfy_quant", note_bytes("mxfp8")

    with spool_beside(target.path) as spool:
        write_file(target.path, spool.tensors(packed()), config)


def _gguf_file(target: Target, tensors: LazyTensors, config: dict[str, Any]) -> None:
    def packed() -> Iterator[tuple[str, Tensor, str]]:
        for name, tensor in tensors.items():
            value = tensor.load()
            kind = "F32" if value.ndim < 2 or target.dtype == torch.float32 else "BF16"
            if _may_be_rounded(name, value.shape, 32):
                kind = target.gguf_type or "Q8_0"
            yield name, value, kind

    write_gguf(target.path, GGUF_ARCHITECTURE, packed(), config)


def _may_be_rounded(name: str, shape: tuple[int, ...], group: int) -> bool:
    kept = any(part in HIGH_PRECISION for part in name.split("."))
    return len(shape) == 2 and not kept and shape[1] % group == 0


def _bfl_file(target: Target, tensors: LazyTensors, config: dict[str, Any]) -> None:
    known = names.vae_to_bfl(tensors)

    def turned() -> NamedTensors:
        for name, value in _cast(tensors, target.dtype):
            projection = ".attn_1." in known[name] and value.ndim == 2
            yield known[name], value[:, :, None, None] if projection else value

    write_file(target.path, turned(), config)


_DENOISER: dict[str, _Writer] = {
    "diffusers": _folder,
    "single": _single,
    "mxfp8": _mxfp8_file,
    "gguf": _gguf_file,
}
_VAE: dict[str, _Writer] = {"diffusers": _folder, "single": _single, "bfl": _bfl_file}
_ENCODER = {
    "plain": write_plain_encoder,
    "mxfp4": write_mxfp4_encoder,
    "nvfp4": write_comfy_encoder,
}
_LORA = {"comfy": write_comfy_lora}
_LAYOUTS: dict[str, tuple[str, ...]] = {
    "denoiser": tuple(_DENOISER),
    "text encoder": (*_ENCODER, "gguf"),
    "autoencoder": tuple(_VAE),
    "LoRA": tuple(_LORA),
}
_CONVERTERS = {
    "denoiser": _convert_denoiser,
    "text encoder": _convert_encoder,
    "autoencoder": _convert_vae,
    "LoRA": _convert_lora,
}
