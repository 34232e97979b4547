"""Where the weights of a run live: whole in every process, or sharded over processes by FSDP2.

Both kinds offer the same: float32 masters by name, a network that computes in the run's precision,
and gradients that reach the masters as the mean over batches and processes. The training loop and
the optimisers do not know which they have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lens_core.errors import ParameterError
from lens_core.training.blocks import prepare_blocks
from lens_core.training.config import DenoiserConfig
from lens_core.training.network import Denoiser, start_as_identity
from lens_core.training.workers import Workers


class Weights(Protocol):
    """The weights of a run.

    Attributes:
        network: Computes; float32 inputs are to be cast to the run's precision first.
        masters: Float32 leaves by name, `model.*` and `head.*`; `DTensor`s where sharded.
    """

    network: Denoiser
    masters: dict[str, Tensor]

    def begin_batch(self, last: bool) -> None:
        """Prepare for a batch; `last` of those whose gradients belong together."""

    def end_batch(self) -> None:
        """Take up the gradients of a batch after its backward pass."""

    def reduce(self) -> None:
        """Leave the mean gradient over processes in the masters' `grad`; None where unused."""

    def refresh(self) -> None:
        """Let the network compute with what the masters hold now."""


def place_weights(config: DenoiserConfig, workers: Workers, device: torch.device) -> Weights:
    """Fresh weights from the run's seed: the same ones, however many processes there are.

    Raises:
        ParameterError: `sharding` does not divide the processes.
    """
    shared_by = workers.count if config.sharding is None else config.sharding
    if workers.count % shared_by:
        raise ParameterError(
            f"sharding {shared_by} does not divide the {workers.count} processes; choose a divisor "
            "or leave it out to share the weights among all"
        )
    if shared_by == 1:
        return ReplicatedWeights.create(config, workers, device)
    return ShardedWeights.create(config, workers.count // shared_by, shared_by, device)


@dataclass
class ReplicatedWeights:
    """All weights in every process: masters beside a copy in the run's precision.

    Attributes:
        network: The copy.
        masters: See `Weights`.
        workers: Average the gradients.
    """

    network: Denoiser
    masters: dict[str, Tensor]
    workers: Workers

    @classmethod
    def create(
        cls, config: DenoiserConfig, workers: Workers, device: torch.device
    ) -> "ReplicatedWeights":
        """Draw the weights from the seed."""
        torch.manual_seed(config.seed)
        network = Denoiser(config)
        start_as_identity(dict(network.named_parameters()))
        masters = {
            name: parameter.detach().to(device, copy=True).requires_grad_()
            for name, parameter in network.named_parameters()
        }
        network.to(device, dtype=getattr(torch, config.precision))
        prepare_blocks(network.blocks, config)
        return cls(network, masters, workers)

    def begin_batch(self, last: bool) -> None:
        """Nothing to prepare."""

    def end_batch(self) -> None:
        """Add the gradients to the masters' in float32."""
        for name, parameter in self.network.named_parameters():
            if parameter.grad is None:
                continue
            master, gradient = self.masters[name], parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            parameter.grad = None

    def reduce(self) -> None:
        """Average over the workers."""
        self.workers.average(m.grad for m in self.masters.values() if m.grad is not None)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the network."""
        for name, parameter in self.network.named_parameters():
            parameter.copy_(self.masters[name])


@dataclass
class ShardedWeights:
    """Every process holds a part of each weight; blocks gather theirs when they compute.

    Attributes:
        network: Wrapped by FSDP2, block by block.
        masters: Its own parameters.
    """

    network: Denoiser
    masters: dict[str, Tensor]

    @classmethod
    def create(
        cls, config: DenoiserConfig, replicas: int, shared_by: int, device: torch.device
    ) -> "ShardedWeights":
        """Draw the weights from the seed, one layer in memory at a time."""
        mesh = init_device_mesh(
            device.type, (replicas, shared_by), mesh_dim_names=("replicate", "shard")
        )
        with torch.device("meta"):
            network = Denoiser(config)
        prepare_blocks(network.blocks, config)
        _shard(network, mesh if replicas > 1 else mesh["shard"], config)
        network.to_empty(device=device)
        masters = cast(dict[str, Tensor], dict(network.named_parameters()))
        _draw(config, masters)
        return cls(network, masters)

    def begin_batch(self, last: bool) -> None:
        """Gradients are exchanged after the last batch only."""
        cast(FSDPModule, self.network).set_requires_gradient_sync(last)

    def end_batch(self) -> None:
        """FSDP2 has taken up the gradients already."""

    def reduce(self) -> None:
        """FSDP2 has averaged already."""

    def refresh(self) -> None:
        """Forget gathered weights, so that the next pass gathers what the masters hold now."""
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; a whole tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors in main memory, gathered one by one; every process must take part.

    Args:
        tensors: Sharded or not, the same names in every process.
        keep: Whether this process wants them; others return nothing.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        full = full.full_tensor() if isinstance(full, DTensor) else full
        if keep:
            gathered[name] = full.to("cpu", copy=True)
    return gathered


def _shard(network: Denoiser, mesh: DeviceMesh, config: DenoiserConfig) -> None:
    """Shard every block on its own, the last one kept gathered for the backward pass."""
    # Inputs are cast by the caller: rotary tables must stay in float32.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.precision == "bfloat16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    blocks = network.blocks
    for block in blocks:
        fully_shard(
            block, mesh=mesh, mp_policy=policy, reshard_after_forward=block is not blocks[-1]
        )
    fully_shard(network, mesh=mesh, mp_policy=policy)


@torch.no_grad()
def _draw(config: DenoiserConfig, masters: dict[str, Tensor]) -> None:
    """Fill sharded weights with what `ReplicatedWeights` draws from the same seed."""
    for name, drawn in drawn_layers(config):
        master = cast(DTensor, masters[name])
        full = drawn.to(master.device)
        master.copy_(
            distribute_tensor(full, master.device_mesh, master.placements, src_data_rank=None)
        )
    start_as_identity(masters)


def drawn_layers(config: DenoiserConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights of a fresh `Denoiser` of the run's seed, one layer in memory at a time.

    Layers draw in the order in which they are constructed, which is that of their names.
    """
    torch.manual_seed(config.seed)
    with torch.device("meta"):
        template = Denoiser(config)
    for path, module in template.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        module.to_empty(device="cpu", recurse=False)
        _reset(module)
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.detach()
        module.to_empty(device="meta", recurse=False)


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise TypeError(f"{type(module).__name__} has weights but no reset_parameters")
    reset()
