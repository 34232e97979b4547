"""The denoiser's weights during training: masters, their average, their optimisers."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lens_core.training.config import DenoiserConfig
from lens_core.training.devices import place
from lens_core.training.dtensors import full_tensor, local, swap_values, whole
from lens_core.training.muon import ShardedMuon
from lens_core.training.network import Denoiser
from lens_core.training.optim import rate_factor, set_rates, state_entry, update_average
from lens_core.training.parallel import Weights, place_weights
from lens_core.training.state import add_prefix, select_prefix
from lens_core.training.workers import Workers
from lens_core.transformer import LensTransformer2DModel


@dataclass
class DenoiserTraining:
    """Everything about the weights that a step reads or changes.

    Attributes:
        config: The run's settings.
        device: Where this process computes.
        weights: Masters and the network that computes; whole or sharded.
        average: Exponential moving average of the masters, laid out as they are.
        optimizers: Muon for the blocks' matrices if the run wants it, AdamW for the rest.
        fixed: What gives the masters their meaning and so cannot change when a run is resumed, by
            name and as JSON.
    """

    config: DenoiserConfig
    device: torch.device
    weights: Weights[Denoiser]
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, config: DenoiserConfig, workers: Workers) -> "DenoiserTraining":
        """Fresh weights from the run's seed.

        Raises:
            ParameterError: The device is not there, or `sharding` does not fit the processes.
        """
        device = place(config.device)
        weights = place_weights(config, workers, device)
        average = {name: tensor.detach().clone() for name, tensor in weights.masters.items()}
        return cls(config, device, weights, average, _optimizers(config, weights.masters))

    @property
    def network(self) -> Denoiser:
        """The network, in the run's precision."""
        return self.weights.network

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the network's inputs."""
        return cast(torch.dtype, getattr(torch, self.config.precision))

    def update(self, step: int) -> tuple[float, bool]:
        """Apply the gradients of the step's batches, averaged over the processes.

        Returns:
            The gradient norm, and whether it was finite. A step that is not changes nothing, in
            any process: all see the same norm.
        """
        self.weights.reduce()
        masters = self.weights.masters
        norm = float(
            full_tensor(torch.nn.utils.clip_grad_norm_(masters.values(), self.config.clip))
        )
        finite = math.isfinite(norm)
        if finite:
            set_rates(self.optimizers, rate_factor(step, self.config))
            for optimizer in self.optimizers:
                optimizer.step()
            names = list(masters)
            update_average(
                [local(self.average[name]) for name in names],
                [local(masters[name].detach()) for name in names],
                self.config.ema_decay,
                step,
            )
            self.weights.refresh()
        for master in masters.values():
            master.grad = None
        return norm, finite

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the network computes with the moving average, without gradients."""
        self._swap()
        self.network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()
            self.network.train()

    def export(self, wanted: bool) -> LensTransformer2DModel | None:
        """A float32 model in main memory that holds the averaged weights.

        Args:
            wanted: Whether this process wants it; all must call.
        """
        weights = whole(select_prefix("model", self.average), wanted)
        if not wanted:
            return None
        with torch.device("meta"):
            model = LensTransformer2DModel(**self.config.model)
        model.eval()
        model.load_state_dict(weights, assign=True)
        return cast(LensTransformer2DModel, model)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by name, for a checkpoint: `master.`, `average.` and `optimizer.*`."""
        state = add_prefix("master", self.weights.masters) | add_prefix("average", self.average)
        for name, optimizer in self._optimizer_of().items():
            entries = optimizer.state.get(cast(Any, self.weights.masters[name]), {})
            state |= add_prefix(f"optimizer.{name}", entries)
        return {name: tensor.detach() for name, tensor in state.items()}

    def targets(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors to read a checkpoint's into, by name; optimiser state is made as named.

        Args:
            names: What the checkpoint holds.

        Raises:
            CheckpointError: It holds something that this run has no place for.
        """
        found = add_prefix("master", self.weights.masters) | add_prefix("average", self.average)
        found = {name: tensor.detach() for name, tensor in found.items()}
        owners = self._optimizer_of()
        for name in set(names) - set(found):
            kind, _, rest = name.partition(".")
            owner, _, entry = rest.rpartition(".")
            optimizer = owners.get(owner) if kind == "optimizer" else None
            found[name] = state_entry(optimizer, self.weights.masters.get(owner), name, entry)
        return found

    def _optimizer_of(self) -> dict[str, torch.optim.Optimizer]:
        """Which optimiser updates a master."""
        names = {id(tensor): name for name, tensor in self.weights.masters.items()}
        return {
            names[id(parameter)]: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def _swap(self) -> None:
        swap_values(self.weights.masters, self.average)
        self.weights.refresh()


def matrix_names(masters: Mapping[str, Tensor]) -> list[str]:
    """Names of the matrices inside blocks, which Muon may update."""
    return [name for name, p in masters.items() if "transformer_blocks" in name and p.ndim == 2]


def _optimizers(config: DenoiserConfig, masters: dict[str, Tensor]) -> list[torch.optim.Optimizer]:
    names = matrix_names(masters) if config.optimizer == "muon" else []
    matrices = [masters[name] for name in names]
    adam = torch.optim.AdamW(
        [tensor for name, tensor in masters.items() if name not in set(names)],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    adam.param_groups[0]["peak"] = config.learning_rate
    if not matrices:
        return [adam]
    muon = _muon(config, matrices)
    muon.param_groups[0]["peak"] = config.muon_learning_rate
    return [muon, adam]


def _muon(config: DenoiserConfig, matrices: list[Tensor]) -> torch.optim.Optimizer:
    rate, decay = config.muon_learning_rate, config.weight_decay
    if isinstance(matrices[0], DTensor):
        return ShardedMuon(matrices, rate, decay)
    return torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
