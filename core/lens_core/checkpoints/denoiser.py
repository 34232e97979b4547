"""The denoiser from every layout: diffusers folder, single file (plain or MXFP8), GGUF."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints import names
from lens_core.checkpoints.comfy import check_note
from lens_core.checkpoints.configs import Config, config_errors, stated_config
from lens_core.checkpoints.formats import mxfp8
from lens_core.checkpoints.formats.blocked_scales import padded_shape
from lens_core.checkpoints.header import CONFIG_KEY
from lens_core.checkpoints.weights import (
    LazyTensor,
    LazyTensors,
    materialise,
    open_weights,
    renamed,
)
from lens_core.errors import CheckpointError
from lens_core.transformer import LensTransformer2DModel

STEM = "diffusion_pytorch_model"
_MXFP8 = ("mxfp8", "mxfp8_block32")
_SCALES = ("U8", "F8_E8M0")
_RELEASED = {"inner_dim": 1536, "in_channels": 128, "head_dim": 64, "enc_hidden_dim": 2880}


@dataclass(frozen=True)
class DenoiserSource:
    """A denoiser before its weights are read.

    Attributes:
        path: File or folder.
        tensors: By the model's names, unpacked when read.
        config: Arguments of `LensTransformer2DModel`.
    """

    path: Path
    tensors: LazyTensors
    config: Mapping[str, Any]


def open_denoiser(path: str | Path, config: Config | None = None) -> DenoiserSource:
    """Look into a denoiser's file or folder.

    Args:
        path: Safetensors or GGUF file, or a folder in the diffusers layout.
        config: For files that are not the published 3.8B model and say nothing themselves.

    Raises:
        CheckpointError: Unreadable, or widths that no configuration explains.
    """
    weights = open_weights(path, STEM)
    wanted = names.strip_denoiser(weights.tensors)
    kept = {name: weights.tensors[name] for name in wanted}
    tensors = _unpack_mxfp8(weights.path, renamed(weights.path, kept, wanted))
    stated = stated_config(weights, config)
    if stated is None:
        _check_released(weights.path, tensors)
        stated = {}
    return DenoiserSource(weights.path, tensors, stated)


def load_denoiser(
    path: str | Path, dtype: torch.dtype = torch.bfloat16, config: Config | None = None
) -> LensTransformer2DModel:
    """Load a denoiser, name by name; packed weights are unpacked to `dtype`.

    Args:
        path: Safetensors or GGUF file, or a folder in the diffusers layout.
        dtype: `torch.bfloat16` or `torch.float32`.
        config: For files that are not the published 3.8B model and say nothing themselves.

    Raises:
        CheckpointError: Missing, unexpected or wrongly shaped tensors, or a damaged file.
        PrecisionError: float16.
    """
    check_dtype(dtype)
    return build_denoiser(open_denoiser(path, config), dtype)


def blank_denoiser(source: DenoiserSource) -> LensTransformer2DModel:
    """The model on the meta device, with which names and shapes can be compared.

    Raises:
        CheckpointError: A configuration of no such model.
    """
    with config_errors(source.path, "Lens denoiser"), torch.device("meta"):
        model: LensTransformer2DModel = LensTransformer2DModel.from_config(source.config)
    return model


def build_denoiser(source: DenoiserSource, dtype: torch.dtype) -> LensTransformer2DModel:
    """Read the weights of an opened denoiser; errors as in `load_denoiser`."""
    model = blank_denoiser(source)
    materialise(model, source.path, source.tensors, dtype)
    loaded: LensTransformer2DModel = model.eval()
    return loaded


def _check_released(path: Path, tensors: LazyTensors) -> None:
    """Refuse other widths than the published ones where nothing states a configuration."""
    looked_at = {
        "inner_dim": ("img_in.weight", 0),
        "in_channels": ("img_in.weight", 1),
        "head_dim": ("transformer_blocks.0.attn.norm_q.weight", 0),
        "enc_hidden_dim": ("txt_norm.0.weight", 0),
    }
    if not any(name in tensors for name, _ in looked_at.values()):
        raise CheckpointError(
            f"{path} is not a Lens denoiser: it has none of "
            f"{[name for name, _ in looked_at.values()]}"
        )
    for key, (name, axis) in looked_at.items():
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) > axis and shape[axis] != _RELEASED[key]:
            raise CheckpointError(
                f"{path} has {key} {shape[axis]}, the published Lens {_RELEASED[key]}: give its "
                f"config, or a file whose metadata states it as {CONFIG_KEY!r}"
            )


def _unpack_mxfp8(path: Path, tensors: LazyTensors) -> LazyTensors:
    """Join weights and scales; scales without weights are left for the name check to report."""
    joined = dict(tensors)
    for name in tensors:
        base = name.removesuffix(".comfy_quant")
        if base != name:
            check_note(path, base, joined.pop(name).load(), _MXFP8)
            continue
        base = name.removesuffix(".weight_scale")
        weight = tensors.get(f"{base}.weight")
        if base == name or weight is None or weight.dtype != "F8_E4M3":
            continue
        joined.pop(name)
        _check_scales(path, name, weight, tensors[name])
        joined[f"{base}.weight"] = LazyTensor(
            weight.shape, partial(_load_mxfp8, weight, tensors[name]), weight.dtype
        )
    for name, tensor in joined.items():
        if tensor.dtype == "F8_E4M3" and tensor is tensors[name]:
            raise CheckpointError(
                f"{path}: {name} is float8 without its scales, {name}_scale; missing: {name}_scale"
            )
    return joined


def _check_scales(path: Path, name: str, weight: LazyTensor, scales: LazyTensor) -> None:
    if len(weight.shape) != 2 or scales.dtype not in _SCALES:
        raise CheckpointError(
            f"{path}: {name} is {scales.dtype} for weights {weight.shape}; only matrices with "
            f"scales in {' or '.join(_SCALES)} are MXFP8"
        )
    rows, columns = weight.shape
    expected = padded_shape(rows, columns // mxfp8.GROUP)
    if columns % mxfp8.GROUP or math.prod(scales.shape) != math.prod(expected):
        raise CheckpointError(
            f"{path} does not fit its config; other shape: {name} {scales.shape} instead of "
            f"{expected} for weights {weight.shape}"
        )


def _load_mxfp8(weight: LazyTensor, scales: LazyTensor) -> Tensor:
    return mxfp8.unpack(weight.load(), scales.load())
