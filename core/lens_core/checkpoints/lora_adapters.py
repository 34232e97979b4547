"""LoRAs as PEFT adapters of a denoiser: attaching, swapping, weighting, saving.

The denoiser's own methods (of diffusers) attach them. Strengths are set here, as PEFT would replace
the scale tensors that spare a compiled model from being compiled again.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lens_core.checkpoint_files import summarise
from lens_core.checkpoints.lora_files import (
    ADAPTER_CONFIG,
    ADAPTER_STEM,
    METADATA,
    LoraWeights,
)
from lens_core.errors import ParameterError
from lens_core.transformer import LensTransformer2DModel


@torch.inference_mode(False)
def attach_lora(transformer: LensTransformer2DModel, name: str, weights: LoraWeights) -> None:
    """Attach a LoRA under a new name.

    Raises:
        ParameterError: PEFT refuses it, for a name with a full stop for instance.
    """
    with warnings.catch_warnings():
        # PEFT warns of a second adapter, which is what was asked for.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        try:
            transformer.load_lora_adapter(
                _state(weights, transformer.dtype),
                prefix=None,
                adapter_name=name,
                metadata=_arguments(weights),
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise ParameterError(f"the LoRA cannot be loaded as {name!r}: {error}") from error


def swap_lora(transformer: LensTransformer2DModel, name: str, weights: LoraWeights) -> None:
    """Put a LoRA's weights into the memory of another one.

    PEFT's own swap finds tensors by whether their names contain the adapter's, and so would erase
    `lora_10` when it swaps `lora_1`.

    Raises:
        ParameterError: It changes modules that the other does not, or has a higher rank than a
            model prepared for swapping has room for.
    """
    from peft import LoraConfig

    layers = dict(_layers(transformer, name))
    if more := sorted(weights.down.keys() - layers.keys()):
        raise ParameterError(
            f"{name!r} does not change {summarise(more)}, so that a LoRA that does cannot be "
            "swapped in; load it under another name"
        )
    for module, rank in weights.ranks.items():
        room = layers[module].lora_A[name].weight.shape[0]
        if rank > room and isinstance(layers[module].scaling[name], Tensor):
            raise ParameterError(
                f"the LoRA has rank {rank}, but there is room for {room} only: call "
                "enable_lora_hotswap with a higher target_rank before the first LoRA"
            )
    for module, layer in layers.items():
        down, up = weights.down.get(module), weights.up.get(module)
        _put(layer.lora_A[name], down)
        _put(layer.lora_B[name], up)
        if down is not None:
            layer.r[name], layer.lora_alpha[name] = down.shape[0], weights.alpha[module]
    transformer.peft_config[name] = LoraConfig(**_arguments(weights))


def remove_loras(transformer: LensTransformer2DModel, names: Sequence[str]) -> None:
    """Remove some LoRAs and leave the others."""
    with warnings.catch_warnings():
        # Which of the others work is said by `set_strengths`, not by PEFT.
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        transformer.delete_adapters(list(names))


def set_strengths(transformer: LensTransformer2DModel, strengths: Mapping[str, float]) -> None:
    """Activate exactly these LoRAs, each with its weight."""
    if not getattr(transformer, "peft_config", None):
        return
    if not strengths:
        transformer.disable_lora()
        return
    transformer.enable_lora()
    transformer.set_adapter([*strengths])
    for name, weight in strengths.items():
        for _, layer in _layers(transformer, name):
            scale = weight * layer.lora_alpha[name] / layer.r[name]
            if isinstance(layer.scaling[name], Tensor):
                layer.scaling[name].fill_(scale)
            else:
                layer.scaling[name] = scale


def copy_weights(transformer: LensTransformer2DModel, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies on the CPU of the weights that some adapters change, by module.

    Quantised weights are left out.
    """
    layers = {module: layer for name in names for module, layer in _layers(transformer, name)}
    weights = {module: layer.get_base_layer().weight.detach() for module, layer in layers.items()}
    return {
        module: weight.to("cpu", copy=True)
        for module, weight in weights.items()
        if type(weight) is Tensor
    }


@torch.no_grad()
def unfuse(transformer: LensTransformer2DModel, copies: Mapping[str, Tensor]) -> None:
    """Take what was fused out of the weights again, and write `copy_weights` back in place.

    Subtracting what was added would leave rounding errors, which add up over many swaps.
    """
    with warnings.catch_warnings():
        # Layers that none of the fused LoRAs changes.
        warnings.filterwarnings("ignore", "Already unmerged")
        transformer.unfuse_lora()
    for module, weight in copies.items():
        layer: Any = transformer.get_submodule(module)
        layer.get_base_layer().weight.copy_(weight)


def save_lora(transformer: LensTransformer2DModel, folder: Path, name: str) -> None:
    """Save an adapter of a denoiser in PEFT's form.

    Raises:
        ParameterError: No such adapter.
    """
    configs = getattr(transformer, "peft_config", {})
    if name not in configs:
        raise ParameterError(f"no LoRA is called {name!r}; there are {sorted(configs)}")
    tensors = {
        f"base_model.model.{key}": matrix for key, matrix in _matrices(transformer, name).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{ADAPTER_STEM}.safetensors", metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(_described(configs[name]), encoding="utf-8")


def save_lora_file(transformer: LensTransformer2DModel, path: Path, name: str) -> None:
    """Save an adapter of a denoiser in the form of diffusers: one file that states PEFT's settings.

    Equal adapters give equal files, which diffusers' own `save_lora_adapter` does not.
    """
    # A second entry, such as the usual "format", would come before or after it by chance.
    metadata = {METADATA: _described(transformer.peft_config[name])}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_matrices(transformer, name), path, metadata=metadata)


def _matrices(transformer: LensTransformer2DModel, name: str) -> dict[str, Tensor]:
    """An adapter's matrices by their names in files."""
    found = {}
    for module, layer in _layers(transformer, name):
        # Room left for swapping in larger LoRAs is not part of this one.
        rank = layer.r[name]
        found[f"{module}.lora_A.weight"] = _plain(layer.lora_A[name].weight[:rank])
        found[f"{module}.lora_B.weight"] = _plain(layer.lora_B[name].weight[:, :rank])
    return found


def _described(config: Any) -> str:
    """PEFT's settings as JSON, its sets in order."""
    values = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    return json.dumps(values, indent=2, sort_keys=True)


def _layers(transformer: LensTransformer2DModel, name: str) -> Iterator[tuple[str, Any]]:
    """Modules that an adapter changes, as PEFT's layers."""
    from peft.tuners.lora import LoraLayer

    for module, layer in transformer.named_modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            yield module, layer


@torch.no_grad()
def _put(linear: nn.Linear, matrix: Tensor | None) -> None:
    """Overwrite a matrix in place, the rest of it with zeros; it grows if it has to."""
    weight = linear.weight
    if matrix is None:
        weight.zero_()
    elif all(there >= new for there, new in zip(weight.shape, matrix.shape, strict=True)):
        weight.zero_()[: matrix.shape[0], : matrix.shape[1]].copy_(matrix)
    else:
        weight.data = matrix.to(weight.device, weight.dtype, copy=True)
        linear.out_features, linear.in_features = matrix.shape


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().cpu().contiguous().clone()


def _state(weights: LoraWeights, dtype: torch.dtype) -> dict[str, Tensor]:
    sides = {"lora_A": weights.down, "lora_B": weights.up}
    return {
        f"{module}.{side}.weight": matrix.to(dtype)
        for side, matrices in sides.items()
        for module, matrix in matrices.items()
    }


def _arguments(weights: LoraWeights) -> dict[str, Any]:
    """Arguments of `LoraConfig`: the most common rank and alpha, and what differs from them."""
    ranks, alphas = weights.ranks, weights.alpha
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{name}": a for name, a in alphas.items() if a != alpha},
        "target_modules": sorted(ranks),
    }
