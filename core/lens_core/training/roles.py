"""A module in training: its optimiser, the norm of its gradients, its skipped updates."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lens_core.errors import NonFiniteError
from lens_core.training.state import optimizer_tensors, restore_optimizer, select, under
from lens_core.training.workers import Workers

_TOLERATED_SKIPS = 20


@dataclass
class Role:
    """Parameters that one optimiser updates.

    Attributes:
        name: In checkpoints, logs and errors.
        parameters: Float32, by name.
        optimizer: Updates them.
        clip: Largest gradient norm.
        updates: Updates made.
        skipped: Updates left out because a gradient was not finite.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip: float
    updates: int = 0
    skipped: int = 0

    def update(self, workers: Workers) -> tuple[float, bool]:
        """Apply the gradients, averaged over the workers, and clear them.

        Returns:
            The gradient norm, and whether it was finite. A norm that is not changes nothing; it is
            the same on all workers, so they agree.

        Raises:
            NonFiniteError: Too many updates were skipped.
        """
        for parameter in self.parameters.values():
            # A worker may have had nothing to train on; all must send the same tensors.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        workers.average(p.grad for p in self.parameters.values() if p.grad is not None)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip))
        finite = bool(torch.isfinite(torch.tensor(norm)))
        if finite:
            self.optimizer.step()
            self.updates += 1
        else:
            self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped > _TOLERATED_SKIPS:
            raise NonFiniteError(
                f"{self.skipped} updates of {self.name} had gradients that are not finite; lower "
                "its learning rate or train in float32"
            )
        return norm, finite

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, optimiser state and counts, for a checkpoint."""
        counts = {"counts": torch.tensor([self.updates, self.skipped])}
        return under(
            self.name,
            under("parameter", self.parameters)
            | under("optimizer", optimizer_tensors(self.optimizer))
            | counts,
        )

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        own = select(self.name, tensors)
        for name, tensor in select("parameter", own).items():
            self.parameters[name].copy_(tensor)
        restore_optimizer(self.optimizer, select("optimizer", own))
        self.updates, self.skipped = (int(count) for count in own["counts"])
