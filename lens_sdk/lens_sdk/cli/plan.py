"""`lens train plan`: estimates what training takes before it starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_sdk.cli.choices import Gpu
from lens_sdk.cli.console import JsonOption, out, print_json, reports_errors
from lens_sdk.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from lens_core.training.plan import TrainingPlan
    from lens_core.training.post_plan import PostPlan


@reports_errors
def plan(
    config: ConfigOption = "lens-512",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs.")] = 128,
    gpu: Annotated[Gpu, typer.Option("--gpu", help="Type of GPU.")] = Gpu.A100,
    mfu: Annotated[
        float,
        typer.Option("--mfu", min=0, max=1, help="Assumed share of the GPU's peak speed."),
    ] = 0.4,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            help="lowres, mixed, pretrain, rl or distill, if the config has several.",
        ),
    ] = None,
    step_batches: Annotated[
        int,
        typer.Option("--step-batches", help="Batches per step over all GPUs; 128 in the report."),
    ] = 128,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", help="Text tokens per caption.")
    ] = 150,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what training takes: operations, memory per GPU, days. Trains nothing.

    Example: lens train plan --config lens-512 --gpus 8 --gpu h100
    """
    from lens_sdk.cli.train import overrides_of
    from lens_sdk.models import require_packages

    values = overrides_of(settings)
    require_packages()
    from lens_core.training.config import DenoiserConfig, PostTrainingConfig
    from lens_core.training.plan import plan_training, planned_config
    from lens_core.training.post_plan import plan_post_training

    found, chosen = planned_config(config, stage, values)
    if isinstance(chosen, PostTrainingConfig):
        planned = plan_post_training(chosen, gpus, gpu.value, mfu, text_tokens)
        if as_json:
            print_json(described_post(planned))
            return
        out.print(_memory(planned))
        out.print(_post_time(planned))
        return
    if not isinstance(chosen, DenoiserConfig):
        raise TypeError(f"{found} does not train the denoiser")
    made = plan_training(chosen, found, gpus, gpu.value, mfu, step_batches, text_tokens)
    if as_json:
        print_json(described(made))
        return
    out.print(_batches(made))
    out.print(_memory(made))
    out.print(_time(made))


def described(plan: TrainingPlan) -> dict[str, Any]:
    """Return the plan for JSON; memory is in GB per GPU."""
    return {
        **_described(plan, plan.kinds[0].run.parameters),
        "accumulate": plan.accumulate,
        "pictures": plan.pictures,
        "operations": plan.total_flops,
        "gpu_hours": plan.gpu_hours,
        "batches": [
            {
                "width": kind.size[1],
                "height": kind.size[0],
                "pictures": kind.pictures,
                "image_tokens": kind.tokens,
                "operations": kind.batch_flops,
                "frozen_operations_per_picture": kind.frozen_flops,
            }
            for kind in plan.kinds
        ],
    }


def described_post(plan: PostPlan) -> dict[str, Any]:
    """Return the plan of a post-training stage for JSON; memory is in GB per GPU."""
    return {
        **_described(plan, plan.parameters),
        "pictures_per_step": plan.pictures,
        "operations_per_step": plan.step_flops,
    }


def _described(plan: TrainingPlan | PostPlan, parameters: int) -> dict[str, Any]:
    """Return the values that every plan has."""
    memory = asdict(plan.memory)
    memory["total"] = {kind: plan.memory.total(kind) for kind in plan.memory.activations}
    return {
        "stage": plan.stage,
        "gpus": plan.gpus,
        "gpu": plan.gpu,
        "mfu": plan.mfu,
        "parameters": parameters,
        "steps": plan.config.steps,
        "step_seconds": plan.step_seconds,
        "days": plan.days,
        "activation_checkpointing": plan.config.activation_checkpointing,
        "memory_gb": memory,
        "fits": {kind: plan.fits(kind) for kind in plan.memory.activations},
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _batches(plan: TrainingPlan) -> Table:
    """Table of operations by kind of batch."""
    table = _table(
        "Operations, 10^12",
        "size",
        "image tokens",
        "pictures of a batch",
        "a picture",
        "a batch",
        "frozen encoders, a picture",
    )
    for kind in plan.kinds:
        table.add_row(
            f"{kind.size[1]}x{kind.size[0]}",
            str(kind.tokens),
            str(kind.pictures),
            f"{kind.image_flops / 1e12:.4g}",
            f"{kind.batch_flops / 1e12:.4g}",
            f"{kind.frozen_flops / 1e12:.3g}",
        )
    return table


def _memory(plan: TrainingPlan | PostPlan) -> Table:
    """Table of memory by kind of checkpointing; the config's own kind is marked."""
    from lens_core.training.plan import GPU_MEMORY_GB

    memory, mine = plan.memory, plan.config.activation_checkpointing
    kinds = list(memory.activations)
    room = GPU_MEMORY_GB[plan.gpu]
    table = _table(
        f"GB of one {plan.gpu} ({room:g} there), without the frozen encoders",
        "activation checkpointing",
        *(f"{kind} (set)" if kind == mine else kind for kind in kinds),
    )
    for name, size in memory.held.items():
        table.add_row(name, *[f"{size:.2f}"] * len(kinds))
    table.add_row("activations", *(f"{memory.activations[kind]:.2f}" for kind in kinds))
    table.add_row("total", *(f"{memory.total(kind):.2f}" for kind in kinds))
    table.add_row("fits", *("yes" if plan.fits(kind) else "no" for kind in kinds))
    return table


def _time(plan: TrainingPlan) -> Table:
    """Table of steps, images and days."""
    title = f"{plan.stage} on {plan.gpus} {plan.gpu} at MFU {plan.mfu:g}"
    table = _table(title, "", "whole stage")
    parameters = plan.kinds[0].run.parameters
    rows = [
        ("parameters of the denoiser", f"{parameters:,}"),
        ("optimiser steps", f"{plan.config.steps:,}"),
        ("batches of a step, each GPU", f"{plan.accumulate}"),
        ("pictures", f"{plan.pictures:.4g}"),
        ("operations", f"{plan.total_flops:.4g}"),
        ("seconds of a step", f"{plan.step_seconds:.3g}"),
        ("days", f"{plan.days:.4g}"),
        ("GPU hours", f"{plan.gpu_hours:,.0f}"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _post_time(plan: PostPlan) -> Table:
    """Table of steps, images and days of a post-training stage."""
    title = f"{plan.stage} on {plan.gpus} {plan.gpu} at MFU {plan.mfu:g}, without rewards"
    table = _table(title, "", "whole stage")
    rows = [
        ("parameters of the denoiser", f"{plan.parameters:,}"),
        ("steps", f"{plan.config.steps:,}"),
        ("pictures of a step", f"{plan.pictures:,}"),
        ("operations of a step", f"{plan.step_flops:.4g}"),
        ("seconds of a step", f"{plan.step_seconds:.3g}"),
        ("days", f"{plan.days:.4g}"),
    ]
    for row in rows:
        table.add_row(*row)
    return table
