"""A training step of the denoiser on the meta device: shapes only, no memory, no arithmetic.

Blocks in the middle are alike, so two and three of them are run and the rest extrapolated, which is
exact. Attention stands in as the fused kernel that GPUs run.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lens_core.memory.meter import FusedAttention
from lens_core.training.blocks import KEPT_OPERATIONS
from lens_core.training.config import Checkpointing
from lens_core.transformer import LensTransformer2DModel


@dataclass(frozen=True)
class DryRun:
    """What a forward pass of a batch takes.

    Attributes:
        parameters: Of the denoiser.
        blocks: How many there are.
        block_parameters: Of one block.
        forward_flops: Of one picture.
        activation_bytes: Kept for the backward pass of the batch, by kind of checkpointing; with
            checkpointing the most that is there at once, while a block is computed again.
    """

    parameters: int
    blocks: int
    block_parameters: int
    forward_flops: int
    activation_bytes: Mapping[Checkpointing, int]


@dataclass(frozen=True)
class _Pass:
    flops: int
    saved: int
    inputs: int
    kept: int

    def grown(self, other: "_Pass", blocks: int) -> "_Pass":
        """`blocks` more blocks than `self` has, where `other` has one more."""

        def line(name: str) -> int:
            mine: int = getattr(self, name)
            theirs: int = getattr(other, name)
            return mine + blocks * (theirs - mine)

        return _Pass(line("flops"), line("saved"), line("inputs"), line("kept"))


def dry_run(
    model: Mapping[str, Any],
    image: tuple[int, int],
    text_tokens: int,
    batch: int,
    dtype: torch.dtype = torch.bfloat16,
    prepare: Callable[[LensTransformer2DModel], None] | None = None,
) -> DryRun:
    """Run a batch's forward pass on the meta device.

    Args:
        model: Arguments of `LensTransformer2DModel`.
        image: Height and width in tokens.
        text_tokens: Text tokens of every picture.
        batch: Pictures.
        dtype: Format of weights and activations.
        prepare: Changes a denoiser before it is run: freezes it, or adds adapters. Gradients then
            reach the noisy tokens, as those of a frozen denoiser must.
    """
    whole = meta_model(model, dtype)
    layers = len(whole.transformer_blocks)

    def measured(blocks: int) -> _Pass:
        part = meta_model({**model, "num_layers": blocks}, dtype)
        if prepare is not None:
            prepare(part)
        return _measured(part, image, text_tokens, batch, prepare is not None)

    two, three = measured(2), measured(3)
    total, block = two.grown(three, layers - 2), three.saved - two.saved
    block_parameters = sum(p.numel() for p in whole.transformer_blocks[0].parameters())
    return DryRun(
        sum(p.numel() for p in whole.parameters()),
        layers,
        block_parameters,
        total.flops // batch,
        {
            "none": total.saved,
            "selective": total.inputs + total.kept + block,
            "full": total.inputs + block,
        },
    )


def meta_model(model: Mapping[str, Any], dtype: torch.dtype) -> LensTransformer2DModel:
    """A denoiser without memory."""
    with torch.device("meta"):
        made: LensTransformer2DModel = LensTransformer2DModel(**model)
    # diffusers' own `to` remarks on every cast.
    torch.nn.Module.to(made, dtype)
    return made


def _measured(
    model: LensTransformer2DModel,
    image: tuple[int, int],
    text_tokens: int,
    batch: int,
    through: bool,
) -> _Pass:
    config, dtype = model.config, model.dtype
    tokens = image[0] * image[1]
    noisy = torch.empty(
        batch, tokens, config.in_channels, dtype=dtype, device="meta", requires_grad=through
    )
    features = [
        torch.empty(batch, text_tokens, config.enc_hidden_dim, dtype=dtype, device="meta")
        for _ in config.selected_layer_index
    ]
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    saved, kept, inputs = _Storages(weights), _Storages(weights), _Storages(weights)
    operations = _KeptOutputs(kept)
    for block in model.transformer_blocks:
        block.register_forward_pre_hook(lambda _, given: inputs.add(*given))
        block.register_forward_pre_hook(lambda *_: operations.switch(True))
        block.register_forward_hook(lambda *_: operations.switch(False))
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(counter)
        stack.enter_context(operations)
        stack.enter_context(FusedAttention())
        stack.enter_context(saved_tensors_hooks(saved.pack, lambda tensor: tensor))
        timesteps = torch.empty(batch, device="meta")
        model(noisy, features, None, timesteps, [(1, *image)], False)
    return _Pass(counter.get_total_flops(), saved.bytes, inputs.bytes, kept.bytes)


@cache
def encoding_flops(size: tuple[int, int]) -> int:
    """Operations by which FLUX.2's autoencoder encodes a picture of some height and width."""
    with torch.device("meta"):
        encoder = AutoencoderKLFlux2().encoder
        picture = torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), FusedAttention():
        encoder(picture)
    return int(counter.get_total_flops())


class _Storages:
    """Bytes of distinct storages; those of weights are not counted."""

    def __init__(self, weights: set[int]) -> None:
        self._weights = weights
        # Tensors stay referenced: a freed one's address would be given to another.
        self._seen: dict[int, Tensor] = {}

    def add(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, tuple):
                self.add(*value)
            elif isinstance(value, Tensor):
                address = value.untyped_storage()._cdata
                if address not in self._weights:
                    self._seen.setdefault(address, value)

    def pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor)
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._seen.values())


class _KeptOutputs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Outputs of the operations that selective checkpointing keeps, inside blocks."""

    def __init__(self, outputs: _Storages) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs = outputs
        self._inside = False

    def switch(self, inside: bool) -> None:
        self._inside = inside

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside and func in KEPT_OPERATIONS:
            self._outputs.add(result)
        return result
