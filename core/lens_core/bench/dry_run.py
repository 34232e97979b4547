"""Dry runs of every path at full size on the meta device, to find what would fail on a GPU.

Meta tensors have shapes, dtypes and a device but no values. Paths that only CUDA takes (8-bit
products, the fused kernel, recorded steps) are covered too; compilers are not. A tensor left on the
host is detected when it is combined with a meta tensor, as it would be on a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lens_core.bench.configs import BenchConfig
from lens_core.blocks import LensAttention
from lens_core.branch import BranchCache
from lens_core.memory.meter import AllocationMeter, FusedAttention
from lens_core.modulation import STREAMS, ModulationTable, TabulatedModulation
from lens_core.speed.accelerate import accelerate_transformer
from lens_core.speed.fused_qk import project_fused
from lens_core.speed.graphs import StepGraphs
from lens_core.speed.plan import SpeedPlan, named_plan
from lens_core.training.flops import forward_flops
from lens_core.transformer import LensTransformer2DModel

META = torch.device("meta")
BLOCKS = 2
"""Number of blocks to run, an inner one and the last; the remaining blocks are like the first."""

TEXT_TOKENS = 232
"""Number of tokens in the benchmark prompt."""


@dataclass(frozen=True)
class DryRun:
    """Result of one dry forward pass.

    Attributes:
        key: Plan, branch, size and batch.
        weights: Bytes of the denoiser's weights in all the forms that the plan keeps.
        peak: Peak bytes in addition to the weights.
        flops: Number of operations by formula.
        error: What would fail; None if nothing.
    """

    key: str
    weights: int
    peak: int
    flops: int
    error: str | None = None


def dry_run(config: BenchConfig, plans: tuple[str, ...]) -> Iterator[DryRun]:
    """Dry-run the denoiser's forward passes under each plan, in bfloat16, at the config's sizes.

    Args:
        config: Models and sizes.
        plans: Names of speed plans.

    Raises:
        ParameterError: A plan is unknown.
    """
    layers = config.transformer.get("num_layers", _published_layers())
    for name in plans:
        model = _model(config, named_plan(name))
        for size in config.sizes:
            for batch in config.batches:
                for text in (TEXT_TOKENS, 0):
                    branch = "cond" if text else "uncond"
                    key = f"{name}/{branch}/{size}/b{batch}"
                    yield _forward(model, layers, key, size, batch, text)


def _published_layers() -> int:
    default: int = signature(LensTransformer2DModel.__init__).parameters["num_layers"].default
    return default


class _OnMeta:
    """Stands in for CUDA graphs: repeats the work on the original buffers."""

    def can_record(self, device: torch.device) -> bool:
        return True

    def record(self, work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        return work


def _model(config: BenchConfig, plan: SpeedPlan) -> LensTransformer2DModel:
    sizes = {**config.transformer, "num_layers": BLOCKS}
    with META:
        model: LensTransformer2DModel = LensTransformer2DModel(**sizes).eval().to(torch.bfloat16)
    # These can only be enabled on CUDA, and a table needs values.
    accelerate_transformer(
        model,
        replace(
            plan, compile_blocks=None, fused_qk=False, cuda_graphs=False, modulation_table=None
        ),
    )
    if plan.fused_qk:
        for module in model.modules():
            if isinstance(module, LensAttention):
                module.project = project_fused
    if plan.modulation_table:
        _tabulate(model)
    if plan.cuda_graphs:
        model.predict = StepGraphs(model, _OnMeta())
    return model


def _tabulate(model: LensTransformer2DModel) -> None:
    blocks: Any = model.transformer_blocks
    for block in blocks:
        for index, stream in enumerate(STREAMS):
            setattr(block, stream, TabulatedModulation(getattr(block, stream), index))
    shape = (4, len(blocks), len(STREAMS), 6 * model.config.inner_dim)
    rows = torch.empty(shape, device=META, dtype=model.dtype)
    model.modulation_table = ModulationTable(torch.linspace(0.25, 1, 4), rows)


@torch.no_grad()
def _forward(
    model: LensTransformer2DModel, layers: int, key: str, size: int, batch: int, text: int
) -> DryRun:
    config: Any = model.config
    side = size // (8 * config.patch_size)
    latents = torch.empty(batch, side * side, config.in_channels, device=META, dtype=model.dtype)
    shape = (batch, text, config.enc_hidden_dim)
    features = [torch.empty(shape, device=META, dtype=model.dtype) for _ in model.txt_norm]
    time, cache = torch.empty(batch, device=META), BranchCache()
    block: Any = model.transformer_blocks[0]
    weights = _bytes(model) + (layers - BLOCKS) * _bytes(block)
    operations = batch * forward_flops({**config, "num_layers": layers}, side * side, text)
    known = [*model.parameters(), *model.buffers(), latents, *features, time]
    try:
        with AllocationMeter(known) as meter, FusedAttention():
            # Graphs are recorded in the second call and replayed in the third.
            for _ in range(3 if isinstance(model.predict, StepGraphs) else 1):
                out = model(
                    latents, features if text else None, None, time, [(1, side, side)],
                    return_dict=False, branch_cache=cache,
                )[0]  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        return DryRun(key, weights, 0, operations, str(error).splitlines()[0])
    wrong = None
    if out.shape != latents.shape or out.dtype != model.dtype or out.device != META:
        wrong = f"the result is {out.dtype} {tuple(out.shape)} on {out.device}"
    return DryRun(key, weights, int(meter.peak), operations, wrong)


def _bytes(module: nn.Module) -> int:
    """Return the bytes of all weights, counting shared memory once."""
    tensors = (*module.parameters(), *module.buffers())
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
