"""What is done to every block before training: activation checkpointing, then compilation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch._dynamo
import torch._inductor.config
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lens_core.training.config import Checkpointing, DenoiserConfig
from lens_core.transformer import LensTransformerBlock

_ATEN = torch.ops.aten
KEPT_OPERATIONS = (
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
)
"""Operations whose results selective checkpointing keeps: dear to compute, cheap to store."""


def prepare_blocks(blocks: Sequence[LensTransformerBlock], config: DenoiserConfig) -> None:
    """Choose the attention of, checkpoint and compile blocks as the run's settings say.

    A block's `forward` is replaced and the block itself kept, so that parameter names stay and
    sharding, which comes later, is the outermost layer: memory is freed inside, weights gathered
    outside (torchtitan's order).
    """
    for block in blocks:
        if config.device == "cpu":
            # The fused kernel is slower there at nano's sizes.
            block.attn.backend = "_native_math"
    wrap_blocks(blocks, config)


class BlockSettings(Protocol):
    """What settings say about blocks; see `DenoiserConfig`."""

    @property
    def activation_checkpointing(self) -> Checkpointing:
        """What blocks compute again in the backward pass."""

    @property
    def compile(self) -> bool:
        """Compile the blocks."""

    @property
    def dynamic_shapes(self) -> bool:
        """Compile for any token count."""


def wrap_blocks(blocks: Sequence[LensTransformerBlock], settings: BlockSettings) -> None:
    """Checkpoint and compile blocks as settings say; see `prepare_blocks`."""
    if settings.compile:
        # One form for each shape they meet; threads may differ from run to run.
        torch._dynamo.config.recompile_limit = 64
        torch._inductor.config.cpp.dynamic_threads = True
    for block in blocks:
        forward: Callable[..., Any] = block.forward
        if settings.activation_checkpointing != "none":
            forward = _checkpointed(forward, settings.activation_checkpointing == "selective")
        if settings.compile:
            forward = torch.compile(forward, dynamic=settings.dynamic_shapes)
        block.forward = forward  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Any], selective: bool) -> Callable[..., Any]:
    extra: dict[str, Any] = {}
    if selective:
        extra["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def recomputing(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False, **extra)

    return recomputing


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    if operation in KEPT_OPERATIONS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
