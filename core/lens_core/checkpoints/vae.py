"""The FLUX.2 autoencoder from a folder or file, with the names of diffusers or of its authors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints import names
from lens_core.checkpoints.configs import Config, config_errors, stated_config
from lens_core.checkpoints.weights import (
    LazyTensor,
    LazyTensors,
    materialise,
    open_weights,
    renamed,
)
from lens_core.exact_buffers import keep_statistics

STEM = "diffusion_pytorch_model"
COUNTER = "bn.num_batches_tracked"
"""Means nothing when weights are only used, and is not in every file."""


@dataclass(frozen=True)
class VaeSource:
    """An autoencoder before its weights are read.

    Attributes:
        path: File or folder.
        tensors: By the names of diffusers.
        config: Arguments of `AutoencoderKLFlux2`.
    """

    path: Path
    tensors: LazyTensors
    config: Mapping[str, Any]


def open_vae(path: str | Path, config: Config | None = None) -> VaeSource:
    """Look into an autoencoder's file or folder.

    Args:
        path: Safetensors or GGUF file, or a folder in the diffusers layout. The file of a full
            fine-tune, with the autoencoder under `first_stage_model.`, will do.
        config: For files that are not the FLUX.2 autoencoder and say nothing themselves.

    Raises:
        CheckpointError: Unreadable.
    """
    weights = open_weights(path, STEM)
    found = weights.tensors
    bundled = {n: t for n, t in found.items() if n.startswith(names.BUNDLED_VAE)}
    found = bundled or found
    prefix = names.find_prefix(found, names.VAE_PREFIXES, names.VAE_ROOTS)
    tensors = renamed(weights.path, found, {name: name.removeprefix(prefix) for name in found})
    if names.uses_bfl_vae(tensors):
        tensors = {n: _as_linear(n, t) for n, t in tensors.items()}
        tensors = renamed(weights.path, tensors, names.vae_to_diffusers(tensors))
    tensors.setdefault(COUNTER, LazyTensor((), lambda: torch.zeros((), dtype=torch.long), "I64"))
    return VaeSource(weights.path, tensors, stated_config(weights, config) or {})


def load_vae_weights(
    path: str | Path, dtype: torch.dtype = torch.bfloat16, config: Config | None = None
) -> AutoencoderKLFlux2:
    """Load the autoencoder, name by name. Its statistics are float32 whatever the dtype.

    Args:
        path: Safetensors or GGUF file, or a folder in the diffusers layout.
        dtype: `torch.bfloat16` or `torch.float32`.
        config: For files that are not the FLUX.2 autoencoder and say nothing themselves.

    Raises:
        CheckpointError: Missing, unexpected or wrongly shaped tensors, or a damaged file.
        PrecisionError: float16.
    """
    check_dtype(dtype)
    return build_vae(open_vae(path, config), dtype)


def blank_vae(source: VaeSource) -> AutoencoderKLFlux2:
    """The model on the meta device, with which names and shapes can be compared.

    Raises:
        CheckpointError: A configuration of no such model.
    """
    with config_errors(source.path, "FLUX.2 autoencoder"), torch.device("meta"):
        vae: AutoencoderKLFlux2 = AutoencoderKLFlux2.from_config(source.config)
    return vae


def build_vae(source: VaeSource, dtype: torch.dtype) -> AutoencoderKLFlux2:
    """Read the weights of an opened autoencoder; errors as in `load_vae_weights`."""
    vae = blank_vae(source)
    materialise(vae, source.path, source.tensors, dtype)
    vae.bn.running_mean = vae.bn.running_mean.float()
    vae.bn.running_var = vae.bn.running_var.float()
    keep_statistics(vae)
    return vae.eval()


def _as_linear(name: str, tensor: LazyTensor) -> LazyTensor:
    """Its authors write the attention's projections as 1 x 1 convolutions."""
    if ".attn_1." not in name or tensor.shape[2:] != (1, 1):
        return tensor

    def load() -> Tensor:
        return tensor.load().flatten(1)

    return replace(tensor, shape=tensor.shape[:2], load=load)
