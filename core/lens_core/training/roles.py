"""A module in training: its optimiser, the norm of its gradients, its skipped updates."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from lens_core.errors import NonFiniteError
from lens_core.training.dtensors import full_tensor
from lens_core.training.optim import TOLERATED_SKIPS, state_entry
from lens_core.training.parallel import Weights
from lens_core.training.state import add_prefix


@dataclass
class Role:
    """Weights that one optimiser updates.

    Attributes:
        name: In checkpoints, logs and errors.
        weights: Whole in every process or sharded.
        optimizer: Updates the masters.
        clip: Largest gradient norm.
        counts: Updates made, and updates left out because a gradient was not finite; a tensor,
            so that it is saved and read with the others.
    """

    name: str
    weights: Weights[Any]
    optimizer: torch.optim.Optimizer
    clip: float
    counts: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    _in_a_row: int = 0

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The float32 masters by name."""
        return self.weights.masters

    @property
    def updates(self) -> int:
        """Updates made."""
        return int(self.counts[0])

    @property
    def skipped(self) -> int:
        """Updates left out because a gradient was not finite."""
        return int(self.counts[1])

    def learn(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a batch's loss.

        Args:
            loss: Its backward pass is run.
            last: Whether it is the last batch before an update.
        """
        self.weights.begin_batch(last)
        loss.backward()  # type: ignore[no-untyped-call]
        self.weights.end_batch()

    def update(self) -> tuple[float, bool]:
        """Apply the gradients, averaged over the processes, and clear them.

        Returns:
            The gradient norm, and whether it was finite. A norm that is not changes nothing; it is
            the same in all processes, so they agree.

        Raises:
            NonFiniteError: Too many updates in a row were skipped.
        """
        parameters = self.parameters.values()
        for parameter in parameters:
            # A process may have had nothing to train on; all must send the same tensors.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.weights.reduce()
        norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(parameters, self.clip)))
        finite = math.isfinite(norm)
        if finite:
            self.optimizer.step()
            self.weights.refresh()
        self.counts[0 if finite else 1] += 1
        self.optimizer.zero_grad(set_to_none=True)
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row > TOLERATED_SKIPS:
            raise NonFiniteError(
                f"{self._in_a_row} updates of {self.name} in a row had gradients that are not "
                "finite; lower its learning rate or train in float32"
            )
        return norm, finite

    def tensors(self) -> dict[str, Tensor]:
        """`NAME.parameter.*`, `NAME.optimizer.PARAMETER.*` and `NAME.counts`, for a checkpoint."""
        state = add_prefix("parameter", self.parameters) | {"counts": self.counts}
        for name, parameter in self.parameters.items():
            entries = self.optimizer.state.get(cast(Any, parameter), {})
            state |= add_prefix(f"optimizer.{name}", entries)
        return {name: tensor.detach() for name, tensor in add_prefix(self.name, state).items()}

    def targets(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors to read a checkpoint's into; optimiser state is made as named.

        Args:
            names: What the checkpoint holds; those of other roles are passed over.

        Raises:
            CheckpointError: It holds something of this role that there is no place for.
        """
        found = self.tensors()
        start = f"{self.name}."
        for name in names:
            if not name.startswith(start) or name in found:
                continue
            kind, _, rest = name[len(start) :].partition(".")
            owner, _, entry = rest.rpartition(".")
            optimizer = self.optimizer if kind == "optimizer" else None
            found[name] = state_entry(optimizer, self.parameters.get(owner), name, entry)
        return found
