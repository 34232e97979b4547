"""LoRA files of every known key style, brought to the denoiser's module names."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lens_core.checkpoint_files import read_json, summarise, weight_files
from lens_core.checkpoints import names
from lens_core.checkpoints.weights import Weights, open_weights
from lens_core.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_STEM = "adapter_model"

_PREFIXES = (
    "base_model.model.transformer.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
)
_FLATTENED = ("lora_unet_", "lora_transformer_")
_SIDES = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
}
_MATRIX = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.\w+)?\.weight"
)
METADATA = "lora_adapter_metadata"
"""Metadata of files saved by diffusers: the PEFT configuration as JSON."""

Shapes = Mapping[str, tuple[int, int]]
"""Outputs and inputs of every linear module, by its name."""


@dataclass(frozen=True)
class LoraWeights:
    """Low-rank changes of linear modules: `up @ down * alpha / rank` is added to each weight.

    Attributes:
        down: `[rank, inputs]` by module.
        up: `[outputs, rank]` by module.
        alpha: By module.
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    alpha: Mapping[str, float]

    @property
    def ranks(self) -> dict[str, int]:
        """By module."""
        return {module: matrix.shape[0] for module, matrix in self.down.items()}


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """The linear modules of a model, adapters already in it left aside."""
    return {
        name.removesuffix(".base_layer"): (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }


def read_lora(path: str | Path, modules: Shapes) -> LoraWeights:
    """Read a LoRA.

    Args:
        path: A safetensors file with PEFT, Comfy, kohya or OneTrainer names, or a PEFT folder.
        modules: The linear modules that it may change.

    Raises:
        CheckpointError: Modules that the model does not have, half a pair, another shape, another
            kind of adapter, a pickle, a damaged file.
    """
    weights = open_weights(path, ADAPTER_STEM)
    flat = {name.replace(".", "_"): name for name in modules}
    pairs: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    unknown = []
    for key, tensor in weights.tensors.items():
        module, side = _split(key, flat)
        if module is None or module not in modules:
            unknown.append(key)
            continue
        pairs[side][module] = tensor.load()
    _refuse(weights, unknown, pairs, modules)
    ranks = {module: matrix.shape[0] for module, matrix in pairs["down"].items()}
    alpha = _stated_alpha(weights, ranks)
    alpha |= {module: float(value) for module, value in pairs["alpha"].items()}
    return LoraWeights(pairs["down"], pairs["up"], alpha)


def lora_digest(path: Path) -> str:
    """SHA-256 of a LoRA's file, in hexadecimal; of a folder, of its weights.

    Raises:
        CheckpointError: A folder without weights.
    """
    digest = hashlib.sha256()
    for file in weight_files(path, ADAPTER_STEM) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _split(key: str, flat: Mapping[str, str]) -> tuple[str | None, str]:
    """Module and side (`down`, `up` or `alpha`) of a tensor's name."""
    found = _MATRIX.fullmatch(key)
    if found is not None:
        return _module(found[1], flat), _SIDES[found[2]]
    if key.endswith(".alpha"):
        return _module(key.removesuffix(".alpha"), flat), "alpha"
    return None, ""


def _module(name: str, flat: Mapping[str, str]) -> str:
    for prefix in _FLATTENED:
        if name.startswith(prefix):
            return flat.get(name.removeprefix(prefix), name)
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return flat.get(name.replace(".", "_"), name)


def _refuse(
    weights: Weights, unknown: list[str], pairs: Mapping[str, dict[str, Tensor]], modules: Shapes
) -> None:
    down, up = pairs["down"], pairs["up"]
    problems = []
    if kinds := names.other_adapters(unknown):
        problems.append(f"it is a {' and a '.join(kinds)}, and only plain LoRAs are read")
    if unknown:
        problems.append(f"unexpected: {summarise(sorted(unknown))}")
    if halves := sorted(down.keys() ^ up.keys()):
        problems.append(f"missing the other half of: {summarise(halves)}")
    if alone := sorted(pairs["alpha"].keys() - down.keys() - up.keys()):
        problems.append(f"alpha without matrices: {summarise(alone)}")
    for module in down.keys() & up.keys():
        outputs, inputs = modules[module]
        rank = down[module].shape[0]
        found = (tuple(down[module].shape), tuple(up[module].shape))
        if found != ((rank, inputs), (outputs, rank)):
            problems.append(
                f"other shape: {module} {found} instead of (rank, {inputs}), ({outputs}, rank)"
            )
    if not down and not problems:
        problems.append("it has no low-rank matrices")
    if problems:
        raise CheckpointError(f"{weights.path} is no LoRA for this model; " + "; ".join(problems))


def _stated_alpha(weights: Weights, ranks: Mapping[str, int]) -> dict[str, float]:
    """From a PEFT configuration beside or inside the file; otherwise the rank, for a scale of 1."""
    from peft.utils.other import get_pattern_key

    config = _peft_config(weights)
    if not config:
        return {module: float(rank) for module, rank in ranks.items()}
    patterns = {
        name.removeprefix("transformer."): value
        for name, value in (config.get("alpha_pattern") or {}).items()
    }
    alphas = {}
    for module, rank in ranks.items():
        key = get_pattern_key(patterns.keys(), module)
        alpha = float(patterns.get(key, config.get("lora_alpha") or rank))
        alphas[module] = alpha * sqrt(rank) if config.get("use_rslora") else alpha
    return alphas


def _peft_config(weights: Weights) -> dict[str, Any]:
    folder = weights.path if weights.path.is_dir() else weights.path.parent
    beside = weights.path.is_dir() or weights.path.stem == ADAPTER_STEM
    if beside and (folder / ADAPTER_CONFIG).is_file():
        return read_json(folder / ADAPTER_CONFIG)
    if METADATA not in weights.metadata:
        return {}
    try:
        stated = json.loads(weights.metadata[METADATA])
        return {name.removeprefix("transformer."): value for name, value in stated.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{weights.path}: its {METADATA} is not a JSON object") from error
