"""Training states of the stages that are made of roles: reinforcement learning, distillation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lens_core.errors import CheckpointError
from lens_core.training.checkpointing import Checkpoints, Saved
from lens_core.training.legacy import legacy_role_state
from lens_core.training.rng import generator_states
from lens_core.training.roles import Role
from lens_core.training.workers import Workers


class RoleStates:
    """Saves and resumes a stage, in `folder/checkpoints`; see `checkpointing`.

    Args:
        folder: The stage's own.
        roles: What is in training.
        others: Further tensors of its state, by name, such as averages.
        workers: All take part.
        keep: How many of the latest states stay.
        fixed: See `Saved.require`.
    """

    def __init__(
        self,
        folder: Path,
        roles: Sequence[Role],
        others: Mapping[str, Tensor],
        workers: Workers,
        keep: int,
        fixed: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.workers = workers
        self._roles = roles
        self._others = others
        self._fixed = fixed
        self._checkpoints = Checkpoints(folder / "checkpoints", workers, keep)

    def save(self, step: int) -> None:
        """Copy the state after some steps and write it in the background; all processes call."""
        tensors = {name: tensor.detach() for name, tensor in self._others.items()}
        for role in self._roles:
            tensors |= role.tensors()
        processes = self.workers.gather({"rng": generator_states()})
        values = {"fixed": dict(self._fixed), "processes": processes}
        self._checkpoints.save(step, tensors, values)

    def wait(self) -> None:
        """Wait until what is being written is on disk."""
        self._checkpoints.wait()

    def resume(self) -> int:
        """Take back the newest state, also of the older form; returns its steps, 0 without one.

        Raises:
            CheckpointError: It could not be read or does not fit these settings.
        """
        saved = self._checkpoints.latest()
        if saved is None:
            saved = legacy_role_state(self.folder / "state", self._roles)
        if saved is None:
            return 0
        saved.require(self._fixed)
        saved.read(self._targets(saved))
        for role in self._roles:
            role.weights.refresh()
        saved.restore_generators(self.workers)
        return saved.values.step

    def _targets(self, saved: Saved) -> dict[str, Tensor]:
        names = saved.names()
        targets = {name: tensor.detach() for name, tensor in self._others.items()}
        for role in self._roles:
            targets |= role.targets(names)
        unknown = sorted(set(names) - set(targets))
        if unknown:
            raise CheckpointError(
                f"{saved.folder} holds {unknown[0]}, which this run has no place for; give the "
                "settings it was saved with"
            )
        return targets
