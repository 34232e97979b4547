"""A denoiser's frozen weights under a memory plan, while adapters beside them are trained.

What a plan says of the denoiser holds in training too, forwards and backwards: large matrices in 8
bits, blocks that visit the device one after the other, modulations that stay with the host. Nothing
of it changes what is learnt but the rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.memory.plan import MemoryPlan
from lens_core.memory.transfer import Transfer, transfer_to
from lens_core.memory.weights import WeightGroup
from lens_core.modulation import STREAMS
from lens_core.training.lora.config import LoraTrainingConfig
from lens_core.transformer import LensTransformer2DModel

_TILE = 512


def check_plan(plan: MemoryPlan, config: LoraTrainingConfig) -> None:
    """See that a run can have a plan.

    Raises:
        ParameterError: It cannot; says why.
    """
    moved = plan.modulation_table or plan.transformer == "stream"
    if config.method == "full" and (moved or plan.transformer_weights != "full"):
        raise ParameterError(
            f"memory plan {plan.name!r} needs frozen weights, but method=full trains them all; "
            "choose 16gb, 24gb or resident, or method=lora"
        )
    if plan.modulation_table and any("_mod." in name for name in config.targets()):
        raise ParameterError(
            f"memory plan {plan.name!r} leaves the modulations with the host, where they are not "
            "trained; choose 16gb, 24gb or resident, or leave modulation out of modules"
        )
    if config.compile and plan.transformer == "stream":
        raise ParameterError(
            f"memory plan {plan.name!r} streams blocks, which cannot be compiled; set "
            "compile=false, or choose another plan"
        )


def can_have(plan: MemoryPlan, config: LoraTrainingConfig) -> bool:
    """Whether `check_plan` has nothing against it."""
    try:
        check_plan(plan, config)
    except ParameterError:
        return False
    return True


def recomputing(plan: MemoryPlan, config: LoraTrainingConfig) -> LoraTrainingConfig:
    """The settings under a plan: blocks that are streamed or rounded are computed again.

    The backward pass would otherwise keep every block's weights in full until it is there.
    Selective checkpointing would take the copies that streaming makes for results to keep.
    """
    chosen = config.activation_checkpointing
    rounded = plan.transformer_weights != "full"
    if plan.transformer == "stream" or (rounded and chosen == "none"):
        chosen = "full"
    return config.model_copy(update={"activation_checkpointing": chosen})


def sample_tile(plan: MemoryPlan) -> int | None:
    """Side of the tiles that sample pictures are decoded in, the denoiser being there too."""
    return plan.vae_tile or (None if plan.vae == "resident" else _TILE)


def hold_frozen(
    model: LensTransformer2DModel,
    plan: MemoryPlan,
    device: torch.device,
    transfer: Transfer | None = None,
) -> None:
    """Put a denoiser where a plan wants its frozen weights; what is trained goes to the device.

    Nothing else works beside it in training, so a plan that lets it come and leave lets it stay.

    Args:
        model: With its adapters, in the host's memory; changed in place. Blocks must not be
            checkpointed or compiled yet.
        plan: The plan, which `check_plan` has nothing against.
        device: Where to compute.
        transfer: How weights reach the device; by default the best way.
    """
    if plan.modulation_table:
        _leave_modulations(model, device)
    if plan.transformer != "stream":
        model.to(device)
        return
    blocks = list(model.transformer_blocks)
    for part in model.children():
        if part is not model.transformer_blocks:
            part.to(device)
    for part in _trained(model.transformer_blocks):
        part.to(device)
    _StreamedBlocks(blocks, transfer or transfer_to(device))


def _leave_modulations(model: LensTransformer2DModel, device: torch.device) -> None:
    """Have what the modulations say of a batch's own times computed before the batch."""
    model.precompute_modulations([1.0])
    if device.type == "cuda":
        # They visit the device for every batch, which is quicker from locked pages.
        for block in model.transformer_blocks:
            for stream in STREAMS:
                for parameter in getattr(block, stream).parameters():
                    parameter.data = parameter.data.pin_memory()
    model.register_forward_pre_hook(_tabulate, with_kwargs=True)


def _tabulate(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    timestep: Tensor = named["timestep"] if "timestep" in named else arguments[3]
    model.precompute_modulations(timestep, timestep.device)  # type: ignore[operator]


def _trained(root: nn.Module) -> Iterator[nn.Module]:
    """Modules with weights of their own that are trained."""
    for module in root.modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            yield module


class _StreamedBlocks:
    """Blocks whose frozen weights visit the device, last to first where gradients are computed.

    Every block's `forward` brings its weights and drops them again, and must be wrapped in
    checkpointing: computed again for its gradient it brings them again, and autograd keeps them
    until that gradient is there. Meanwhile the neighbour that is next travels; there are never more
    than two blocks, as the host first waits for everything that was computed with a third.

    Args:
        blocks: In the order they run in.
        transfer: How weights reach the device.
    """

    def __init__(self, blocks: Sequence[nn.Module], transfer: Transfer) -> None:
        self._transfer = transfer
        self._groups = [WeightGroup([block], [*_trained(block)], transfer) for block in blocks]
        self._latest = -1
        for index, block in enumerate(blocks):
            if transfer.device.type == "cuda":
                self._groups[index].pin()
            block.forward = partial(self._run, index, block.forward)

    def _run(self, index: int, forward: Callable[..., Any], *arguments: Any) -> Any:
        group, after = self._groups[index], self._next(index)
        self._transfer.settle(self._transfer.moment())
        group.begin()
        if after is not None:
            after.begin()
        group.load()
        try:
            return forward(*arguments)
        finally:
            group.unload()

    def _next(self, index: int) -> WeightGroup | None:
        """The block after this one in the direction of travel."""
        ahead = index + 1 if index == 0 or index > self._latest else index - 1
        self._latest = index
        return self._groups[ahead] if ahead < len(self._groups) else None
