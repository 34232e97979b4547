"""Carrying out a speed plan on a pipeline's components."""

from typing import TYPE_CHECKING, TypeVar

import torch
from diffusers import AutoencoderKLFlux2
from torch import nn

from lens_core.blocks import LensAttention, project_jointly
from lens_core.errors import ComponentError
from lens_core.speed.fused_qk import project_fused, require_fused_qk
from lens_core.speed.plan import SpeedPlan, named_plan
from lens_core.transformer import LensTransformer2DModel

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline

    P = TypeVar("P", bound=LensPipeline)

MOST_COMPILATIONS = 64
"""Variants of a block that may be compiled (with text, without, the last block, times sizes) before
torch would silently go on uncompiled; its own limit is 8."""


def accelerate(pipeline: "P", plan: SpeedPlan | str) -> "P":
    """Make a pipeline take the paths that a plan names, and the plain ones otherwise.

    Weights, names and LoRAs stay as they are, and another plan may follow at any time.

    Args:
        pipeline: Changed in place.
        plan: A plan, or `plain`, `exact` or `fast`.

    Returns:
        The pipeline.

    Raises:
        ParameterError: A plan of another name.
        ComponentError: The plan asks for the Triton kernel where it cannot run, or to compile
            blocks whose weights come and go.
    """
    chosen = named_plan(plan) if isinstance(plan, str) else plan
    accelerate_transformer(pipeline.transformer, chosen)
    accelerate_vae(pipeline.vae, chosen)
    return pipeline


def accelerate_transformer(transformer: LensTransformer2DModel, plan: SpeedPlan) -> None:
    """The denoiser's share of `accelerate`."""
    if plan.fused_qk:
        require_fused_qk(transformer.device)
    if plan.compile_blocks is not None:
        _refuse_visiting_blocks(transformer)
    transformer.reuses_branches = plan.reuse_branches
    if plan.modulation_table is not None:
        transformer.keeps_modulation_table = plan.modulation_table
    if plan.modulation_table is False:
        transformer.restore_modulations()
    for block in transformer.transformer_blocks:
        _uncompile(block)
    for attention in transformer.modules():
        if isinstance(attention, LensAttention):
            attention.project = project_fused if plan.fused_qk else project_jointly
            attention.backend = plan.attention
    if plan.compile_blocks is not None:
        _allow_compilations()
        transformer.compile_repeated_blocks(
            fullgraph=True, mode=plan.compile_blocks, dynamic=plan.dynamic_shapes
        )


def accelerate_vae(vae: AutoencoderKLFlux2, plan: SpeedPlan) -> None:
    """The autoencoder's share of `accelerate`."""
    layout = torch.channels_last if plan.channels_last_vae else torch.contiguous_format
    vae.decoder.to(memory_format=layout)
    _uncompile(vae.decoder)
    if plan.compile_vae:
        _allow_compilations()
        vae.decoder.compile(fullgraph=True, dynamic=plan.dynamic_shapes)


def _refuse_visiting_blocks(transformer: LensTransformer2DModel) -> None:
    """Compiled code cannot stop to fetch weights."""
    for block in transformer.transformer_blocks:
        if block._forward_pre_hooks or hasattr(block, "_hf_hook"):
            raise ComponentError(
                "compile_blocks cannot be used: a memory plan or hook brings the blocks' weights "
                "one by one. Choose a plan that keeps the denoiser on the device, or leave it out"
            )


def _uncompile(module: nn.Module) -> None:
    """Undo `nn.Module.compile`, which leaves the module and its names in place."""
    module._compiled_call_impl = None


def _allow_compilations() -> None:
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, MOST_COMPILATIONS)
