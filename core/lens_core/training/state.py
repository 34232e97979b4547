"""Training state on disk: safetensors and JSON, written to a new folder that is then renamed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lens_core.errors import CheckpointError, first_line
from lens_core.training.rng import generator_states, restore_generators
from lens_core.training.state_values import VALUES, StateValues, read_values, restoring


def save_state(directory: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Replace `directory` by one holding `state.safetensors` and `state.json`.

    The old state stays until the new one is complete, so a run killed here resumes from one of
    the two.
    """
    fresh, old = directory.with_suffix(".new"), directory.with_suffix(".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, fresh / "state.safetensors")
    (fresh / VALUES).write_text(json.dumps(values, indent=1))
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.replace(old)
    fresh.replace(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_state(directory: Path) -> tuple[dict[str, Tensor], StateValues] | None:
    """Read what `save_state` wrote, or None where no run has saved anything yet.

    Raises:
        CheckpointError: The folder is there but its files are not, or are damaged.
    """
    found = find_state(directory)
    if found is None:
        return None
    source, values = found
    try:
        mapped = load_file(source / "state.safetensors")
        # An optimiser keeps what it is given, and Windows replaces no file that is mapped.
        return {name: tensor.clone() for name, tensor in mapped.items()}, values
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{source} is not a complete training state ({error}); remove it to start again"
        ) from error


def find_state(directory: Path) -> tuple[Path, StateValues] | None:
    """The newest complete state, in `directory` or what a kill left beside it, and its values.

    Raises:
        CheckpointError: The values cannot be read.
    """
    source = directory if directory.exists() else directory.with_suffix(".old")
    return (source, read_values(source / VALUES)) if source.exists() else None


def save_component(
    directory: Path, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Save a module that one process trains: weights, moments, steps, random generators."""
    tensors = add_prefix(name, module.state_dict()) | add_prefix(
        "adam", optimizer_tensors(optimizer)
    )
    save_state(directory, tensors, {"step": step, "rng": generator_states()})


def resume_component(
    directory: Path, name: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Take back what `save_component` saved; returns its steps, 0 without a state.

    Raises:
        CheckpointError: The state is not complete, or belongs to other settings.
    """
    saved = load_state(directory)
    if saved is None:
        return 0
    tensors, values = saved
    try:
        module.load_state_dict(select_prefix(name, tensors))
        restore_optimizer(optimizer, select_prefix("adam", tensors))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{directory} does not fit this run ({first_line(error)}); give the settings it was "
            "saved with, or remove it to start again"
        ) from error
    if values.rng is not None:  # States of earlier versions go on without.
        with restoring(directory / VALUES, "rng"):
            restore_generators(values.rng)
    return values.step


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add `prefix.` to every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix.*`, without the prefix."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors `index.name`; every entry of ours is a tensor."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` gave, keeping the optimiser's own parameter groups."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
