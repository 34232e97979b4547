"""States of runs begun before training could be sharded: one `state.safetensors` in `state/`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lens_core.training.checkpointing import Saved
from lens_core.training.denoiser import matrix_names
from lens_core.training.roles import Role
from lens_core.training.state import find_state


def legacy_state(folder: Path, masters: Mapping[str, Tensor]) -> Saved | None:
    """A state of that form as one of today's, or None where there is none.

    Optimiser states were numbered, Muon's first; now they bear their weight's name.

    Args:
        folder: The run's `state/`; `state.old`, left by a kill, is taken in its place.
        masters: The run's weights by name.

    Raises:
        CheckpointError: The folder is there but not complete.
    """
    matrices = matrix_names(masters)
    owners = [matrices, [name for name in masters if name not in set(matrices)]]

    def known_as(stored: str) -> str:
        kind, _, rest = stored.partition(".")
        if not kind.startswith("optimizer"):
            return stored
        index, _, entry = rest.partition(".")
        return f"optimizer.{owners[int(kind.removeprefix('optimizer'))][int(index)]}.{entry}"

    return _saved(folder, known_as)


def legacy_role_state(folder: Path, roles: Sequence[Role]) -> Saved | None:
    """The same for a stage of roles, whose optimiser states were numbered as their parameters.

    Args:
        folder: The run's `state/`.
        roles: What is in training.

    Raises:
        CheckpointError: The folder is there but not complete.
    """
    owners = {role.name: list(role.parameters) for role in roles}

    def known_as(stored: str) -> str:
        role, _, rest = stored.partition(".")
        kind, _, rest = rest.partition(".")
        index, _, entry = rest.partition(".")
        if kind != "optimizer" or role not in owners or int(index) >= len(owners[role]):
            return stored
        return f"{role}.optimizer.{owners[role][int(index)]}.{entry}"

    return _saved(folder, known_as)


def _saved(folder: Path, known_as: Callable[[str], str]) -> Saved | None:
    found = find_state(folder)
    return None if found is None else Saved(*found, known_as)
