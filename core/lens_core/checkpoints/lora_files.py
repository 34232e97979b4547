"""LoRA files of every known key style, brought to the denoiser's module names."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lens_core.checkpoint_files import read_json, summarise, weight_files
from lens_core.checkpoints import names
from lens_core.checkpoints.header import is_float
from lens_core.checkpoints.weights import LazyTensors, Weights, open_weights
from lens_core.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_STEM = "adapter_model"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file, which it looks for in a folder."""

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
        """Rank by module."""
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
        path: A safetensors file with PEFT, Comfy, kohya or OneTrainer names, or a folder of PEFT
            or diffusers, or with one such file.
        modules: The linear modules that it may change.

    Raises:
        CheckpointError: Modules that the model does not have, half a pair, another shape, another
            kind of adapter, a pickle, a damaged file.
    """
    weights = open_weights(_of_folder(Path(path)), ADAPTER_STEM)
    flat = {name.replace(".", "_"): name for name in modules}
    pairs: dict[str, LazyTensors] = {"down": {}, "up": {}, "alpha": {}}
    known_as = {key: _split(key, flat) for key in weights.tensors}
    unknown = [key for key, (module, _) in known_as.items() if module not in modules]
    for key, (module, side) in known_as.items():
        if module in modules:
            pairs[side][module] = weights.tensors[key]
    twice = names.repeated({key: f"{known_as[key]}" for key in known_as.keys() - set(unknown)})
    _refuse(weights, unknown, twice, pairs, modules)
    ranks = {module: matrix.shape[0] for module, matrix in pairs["down"].items()}
    alpha = _stated_alpha(weights, ranks)
    alpha |= {module: float(value.load()) for module, value in pairs["alpha"].items()}
    if odd := sorted(module for module, value in alpha.items() if not isfinite(value)):
        raise CheckpointError(f"{weights.path}: alpha of {summarise(odd)} is not a finite number")
    down, up = (
        {module: matrix.load() for module, matrix in pairs[side].items()} for side in ("down", "up")
    )
    return LoraWeights(down, up, alpha)


def lora_digest(path: Path) -> str:
    """SHA-256 of a LoRA's file, in hexadecimal; of a folder, of its weights.

    Raises:
        CheckpointError: A folder without weights.
    """
    digest, path = hashlib.sha256(), _of_folder(path)
    for file in weight_files(path, ADAPTER_STEM) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _of_folder(path: Path) -> Path:
    """The file in a folder that PEFT did not write: by diffusers, or the only one there is."""
    if not path.is_dir() or (path / f"{ADAPTER_STEM}.safetensors").is_file():
        return path
    files = sorted(path.glob("*.safetensors"))
    named = [file for file in files if file.name == DIFFUSERS_NAME]
    if named or len(files) == 1:
        return (named or files)[0]
    if files:
        raise CheckpointError(
            f"{path} has several files: name one of {[file.name for file in files]} by weight_name"
        )
    return path


def _split(key: str, flat: Mapping[str, str]) -> tuple[str, str]:
    """Module and side (`down`, `up` or `alpha`) of a tensor's name; of others no module."""
    found = _MATRIX.fullmatch(key)
    if found is not None:
        return _module(found[1], flat), _SIDES[found[2]]
    if key.endswith(".alpha"):
        return _module(key.removesuffix(".alpha"), flat), "alpha"
    return "", ""


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
    weights: Weights,
    unknown: list[str],
    twice: list[str],
    pairs: Mapping[str, LazyTensors],
    modules: Shapes,
) -> None:
    down, up, alpha = pairs["down"], pairs["up"], pairs["alpha"]
    problems = []
    if kinds := names.other_adapters(unknown):
        problems.append(f"it is a {' and a '.join(kinds)}, and only plain LoRAs are read")
    if unknown:
        problems.append(f"unexpected: {summarise(sorted(unknown))}")
    if twice:
        problems.append(f"the same tensor twice: {summarise(sorted(twice))}")
    if halves := sorted(down.keys() ^ up.keys()):
        problems.append(f"missing the other half of: {summarise(halves)}")
    if alone := sorted(alpha.keys() - down.keys() - up.keys()):
        problems.append(f"alpha without matrices: {summarise(alone)}")
    if lists := sorted(module for module, value in alpha.items() if prod(value.shape) != 1):
        problems.append(f"alpha that is not a single number: {summarise(lists)}")
    for module in down.keys() & up.keys():
        outputs, inputs = modules[module]
        found = (down[module].shape, up[module].shape)
        rank = (*found[0], 0)[0]
        if not (is_float(down[module].dtype) and is_float(up[module].dtype)):
            problems.append(f"integer matrices: {module}")
        if rank == 0 or found != ((rank, inputs), (outputs, rank)):
            problems.append(
                f"other shape: {module} {found} instead of (rank, {inputs}), ({outputs}, rank)"
            )
    if not down and not problems:
        problems.append("it has no low-rank matrices")
    if problems:
        raise CheckpointError(
            f"{weights.path} is not a LoRA for this model; " + "; ".join(problems)
        )


def _stated_alpha(weights: Weights, ranks: Mapping[str, int]) -> dict[str, float]:
    """From a PEFT configuration beside or inside the file; otherwise the rank, for a scale of 1."""
    from peft.utils.other import get_pattern_key

    config = _peft_config(weights)
    if not config:
        return {module: float(rank) for module, rank in ranks.items()}
    if config.get("use_dora") or config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(
            f"{weights.path} is configured as {config.get('peft_type')} with use_dora "
            f"{config.get('use_dora', False)}, and only plain LoRAs are read"
        )
    alphas = {}
    try:
        patterns = {
            name.removeprefix("transformer."): value
            for name, value in (config.get("alpha_pattern") or {}).items()
        }
        for module, rank in ranks.items():
            key = get_pattern_key(patterns.keys(), module)
            alpha = float(patterns.get(key, config.get("lora_alpha") or rank))
            alphas[module] = alpha * sqrt(rank) if config.get("use_rslora") else alpha
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(
            f"{weights.path}: alpha in its PEFT configuration is unusable: {error}"
        ) from error
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
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{weights.path}: its {METADATA} is not a JSON object") from error
