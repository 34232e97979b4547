"""Where the weights of a run live: whole in every process, or sharded over processes by FSDP2.

Both kinds offer the same: float32 masters by name, a network that computes in the run's precision,
and gradients that reach the masters as the mean over batches and processes. The training loop and
the optimisers do not know which they have.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

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

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Weights(Protocol[NetworkT]):
    """The weights of a run.

    Attributes:
        network: Computes; float32 inputs are to be cast to the run's precision first.
        masters: Float32 leaves by their names in the network; `DTensor`s where sharded.
    """

    network: NetworkT
    masters: dict[str, Tensor]

    def begin_batch(self, last: bool) -> None:
        """Prepare for a batch; `last` of those whose gradients belong together."""

    def end_batch(self) -> None:
        """Take up the gradients of a batch after its backward pass."""

    def reduce(self) -> None:
        """Leave the mean gradient over processes in the masters' `grad`; None where unused."""

    def refresh(self) -> None:
        """Let the network compute with what the masters hold now."""


def weight_mesh(sharding: int | None, workers: Workers, device: torch.device) -> DeviceMesh | None:
    """How processes share weights; None where each has its own copy.

    Args:
        sharding: Processes that share one copy; None takes all.
        workers: The processes that train together.
        device: Where this one computes.

    Raises:
        ParameterError: `sharding` does not divide the processes.
    """
    shared_by = workers.count if sharding is None else sharding
    if workers.count % shared_by:
        raise ParameterError(
            f"sharding {shared_by} does not divide the {workers.count} processes; choose a divisor "
            "or leave it out to share the weights among all"
        )
    if shared_by == 1:
        return None
    shape = (workers.count // shared_by, shared_by)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    return mesh if shape[0] > 1 else mesh["shard"]


def place_weights(
    config: DenoiserConfig, workers: Workers, device: torch.device
) -> Weights[Denoiser]:
    """Fresh weights from the run's seed: the same ones, however many processes there are.

    Raises:
        ParameterError: `sharding` does not divide the processes.
    """
    mesh = weight_mesh(config.sharding, workers, device)
    if mesh is not None:
        return _drawn_in_parts(config, mesh, device)
    torch.manual_seed(config.seed)
    network = Denoiser(config)
    start_as_identity(dict(network.named_parameters()))
    prepare_blocks(network.blocks, config)
    return ReplicatedWeights.of(network, workers, device, getattr(torch, config.precision))


@dataclass
class ReplicatedWeights(Generic[NetworkT]):
    """All weights in every process: masters beside a copy in the run's precision.

    Attributes:
        network: The copy; what it has besides is frozen.
        masters: See `Weights`.
        workers: Average the gradients.
    """

    network: NetworkT
    masters: dict[str, Tensor]
    workers: Workers

    @classmethod
    def of(
        cls, network: NetworkT, workers: Workers, device: torch.device, precision: torch.dtype
    ) -> "ReplicatedWeights[NetworkT]":
        """Take over a float32 network, the same in every process."""
        masters = {
            name: parameter.detach().to(device, copy=True).requires_grad_()
            for name, parameter in network.named_parameters()
        }
        # diffusers' own `to` remarks on every cast.
        nn.Module.to(network, device, dtype=precision)
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
            if name in self.masters:
                parameter.copy_(self.masters[name])


@dataclass
class ShardedWeights(Generic[NetworkT]):
    """Every process holds a part of each weight; blocks gather theirs when they compute.

    Attributes:
        network: Wrapped by FSDP2, block by block.
        masters: Its own parameters.
    """

    network: NetworkT
    masters: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        network: NetworkT,
        blocks: Sequence[nn.Module],
        mesh: DeviceMesh,
        precision: torch.dtype,
    ) -> "ShardedWeights[NetworkT]":
        """Take over a float32 network, the same in every process; it may be on the CPU or meta."""
        shard(network, blocks, mesh, precision)
        return cls(network, cast(dict[str, Tensor], dict(network.named_parameters())))

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


def place_network(
    network: NetworkT,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh | None,
    workers: Workers,
    device: torch.device,
    precision: torch.dtype,
) -> Weights[NetworkT]:
    """Weights of a float32 network that is the same in every process, such as a loaded one.

    Args:
        network: On the CPU; taken over.
        blocks: Its parts that are sharded on their own.
        mesh: See `weight_mesh`.
        workers: The processes that train together.
        device: Where this one computes.
        precision: Format of the computation.
    """
    if mesh is None:
        return ReplicatedWeights.of(network, workers, device, precision)
    return ShardedWeights.of(network, blocks, mesh, precision)


def shard(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh,
    precision: torch.dtype,
    kept_whole: Collection[nn.Parameter] = (),
) -> None:
    """Shard every block on its own, the last one kept gathered for the backward pass.

    Args:
        network: Wrapped in place, frozen weights too.
        blocks: Of it.
        mesh: Processes that share its weights.
        precision: Format that weights are gathered and computed with in.
        kept_whole: Parameters that stay whole in every process.
    """
    # Inputs are cast by the caller: rotary tables must stay in float32.
    policy = MixedPrecisionPolicy(
        param_dtype=None if precision == torch.float32 else precision,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    ignored = set(kept_whole)
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=block is not blocks[-1],
            ignored_params=ignored,
        )
    fully_shard(network, mesh=mesh, mp_policy=policy, ignored_params=ignored)


def _drawn_in_parts(
    config: DenoiserConfig, mesh: DeviceMesh, device: torch.device
) -> ShardedWeights[Denoiser]:
    """Sharded weights drawn from the seed, one layer in memory at a time."""
    with torch.device("meta"):
        network = Denoiser(config)
    prepare_blocks(network.blocks, config)
    shard(network, network.blocks, mesh, getattr(torch, config.precision))
    network.to_empty(device=device)
    masters = cast(dict[str, Tensor], dict(network.named_parameters()))
    _draw(config, masters)
    return ShardedWeights(network, masters)


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
