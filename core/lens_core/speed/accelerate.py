"""Carrying out a speed plan on a pipeline's components."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from diffusers import AutoencoderKLFlux2
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from lens_core.blocks import LensAttention, project_jointly
from lens_core.errors import ComponentError, first_line
from lens_core.memory.placements import working_device
from lens_core.memory.quantise import is_quantised
from lens_core.modulation import Preparation
from lens_core.prediction import predict_plainly
from lens_core.speed.fp8 import require_fp8
from lens_core.speed.fused_qk import project_fused, require_fused_qk
from lens_core.speed.graphs import StepGraphs
from lens_core.speed.plan import SpeedPlan, named_plan
from lens_core.speed.prepared import PreparedWeights
from lens_core.transformer import LensTransformer2DModel

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline

    P = TypeVar("P", bound=LensPipeline)

_log = logging.getLogger(__name__)

MOST_COMPILATIONS = 64
"""Variants of a block that may be compiled (with text, without, the last block, times sizes) before
torch would silently go on uncompiled; its own limit is 8."""


def accelerate(pipeline: "P", plan: SpeedPlan | str) -> "P":
    """Make a pipeline take the paths that a plan names, and the plain ones otherwise.

    Weights, names and LoRAs stay as they are, and another plan may follow at any time. A memory
    plan's modulation table stays, whatever a speed plan says of it.

    Args:
        pipeline: Changed in place.
        plan: A plan, or the name of one: `plain`, `exact`, `fast`, `fp8` and so on.

    Returns:
        The pipeline.

    Raises:
        ParameterError: A plan of another name.
        ComponentError: The plan asks for the Triton kernel, an attention kernel or for fp8 where
            they cannot run, to compile blocks whose weights come and go, or for fp8 of weights
            that come and go or are rounded already.
    """
    chosen = named_plan(plan) if isinstance(plan, str) else plan
    if pipeline.memory_plan.modulation_table and chosen.modulation_table is False:
        _log.info("memory plan %r keeps its modulation table", pipeline.memory_plan.name)
        chosen = replace(chosen, modulation_table=None)
    stays = pipeline.memory_plan.transformer == "resident"
    accelerate_transformer(pipeline.transformer, chosen if stays else _for_moving(chosen))
    accelerate_vae(pipeline.vae, chosen)
    return pipeline


def accelerate_transformer(transformer: LensTransformer2DModel, plan: SpeedPlan) -> None:
    """The denoiser's share of `accelerate`."""
    if plan.fused_qk:
        require_fused_qk(working_device(transformer))
    if plan.attention is not None:
        _require_attention(transformer, plan.attention)
    if plan.compile_blocks is not None:
        _refuse_visiting_blocks(transformer)
    if plan.fp8 is not None:
        _check_fp8(transformer)
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
    _prepare(transformer, plan)
    if plan.compile_blocks is not None:
        transformer.compile_repeated_blocks(
            fullgraph=True, mode=plan.compile_blocks, dynamic=plan.dynamic_shapes
        )


@torch.no_grad()
def _require_attention(transformer: LensTransformer2DModel, name: str) -> None:
    """Try a kernel, as it would otherwise fail in the middle of a picture."""
    device = working_device(transformer)
    heads = transformer.config.num_attention_heads, transformer.config.attention_head_dim
    values = torch.zeros(1, 16, *heads, device=device, dtype=transformer.dtype)
    try:
        dispatch_attention_fn(values, values, values, backend=name)
    except Exception as error:
        raise ComponentError(
            f"attention {name!r} cannot be used on {device} in {transformer.dtype}: "
            f"{type(error).__name__}: {first_line(error)}. Install what it needs, or leave the "
            "choice to torch (attention=None)"
        ) from error


def _prepare(transformer: LensTransformer2DModel, plan: SpeedPlan) -> None:
    """Replace the previous plan's forms of the weights."""
    for preparation in transformer.preparations:
        if isinstance(preparation, PreparedWeights):
            preparation.remove()
    transformer.preparations, transformer.predict = (), predict_plainly
    made: list[Preparation] = []
    if plan.fused_mlp or plan.fp8 is not None:
        made.append(PreparedWeights(transformer, plan.fused_mlp, plan.fp8))
    if plan.cuda_graphs and transformer.device.type == "cuda":
        graphs = StepGraphs(transformer)
        transformer.predict = graphs
        made.append(graphs)
    elif plan.cuda_graphs:
        _log.warning("cuda_graphs left out: the denoiser is on %s", transformer.device)
    transformer.preparations = tuple(made)


def _for_moving(plan: SpeedPlan) -> SpeedPlan:
    """The part of a plan that works with weights that are not always on the device."""
    if plan.fp8 is not None:
        raise ComponentError(
            "fp8 cannot be used: the memory plan moves the denoiser's weights, and the 8-bit form "
            "would stay behind. Choose a memory plan that keeps the denoiser on the device, or "
            "leave fp8 out"
        )
    if plan.cuda_graphs:
        _log.warning("cuda_graphs left out: the memory plan moves the denoiser's weights")
    return replace(plan, fused_mlp=False, cuda_graphs=False)


def _check_fp8(transformer: LensTransformer2DModel) -> None:
    require_fp8(transformer.device, transformer.dtype)
    if is_quantised(transformer):
        raise ComponentError(
            "fp8 cannot be used: the memory plan rounded the weights already; load the denoiser "
            "without it"
        )


def accelerate_vae(vae: AutoencoderKLFlux2, plan: SpeedPlan) -> None:
    """The autoencoder's share of `accelerate`."""
    layout = torch.channels_last if plan.channels_last_vae else torch.contiguous_format
    vae.decoder.to(memory_format=layout)
    _uncompile(vae.decoder)
    if plan.compile_vae:
        allow_compilations()
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


def allow_compilations() -> None:
    """Let torch compile every variant of a block."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, MOST_COMPILATIONS)
