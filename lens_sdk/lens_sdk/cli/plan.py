"""`lens train plan`: what a training would take, before it is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lens_sdk.cli.console import out, reports_errors

if TYPE_CHECKING:
    from lens_core.training.plan import TrainingPlan


@reports_errors
def plan(
    config: Annotated[
        str, typer.Option("--config", "-c", help="A preset such as lens-512, or a JSON file.")
    ] = "lens-512",
    gpus: Annotated[int, typer.Option("--gpus", "-n", help="How many GPUs share the work.")] = 128,
    gpu: Annotated[str, typer.Option("--gpu", help="a100, h100 or h200.")] = "a100",
    mfu: Annotated[
        float, typer.Option("--mfu", help="Share of the peak that is assumed to be reached.")
    ] = 0.4,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="lowres, mixed or pretrain, where the config has several."),
    ] = None,
    step_batches: Annotated[
        int,
        typer.Option("--step-batches", help="Batches of a step over all GPUs; 128 in the report."),
    ] = 128,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", help="Text tokens of a picture's caption.")
    ] = 150,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the stage as KEY=VALUE; may be repeated."),
    ] = None,
) -> None:
    """Say what a stage would take: operations, memory of each GPU, days. Nothing is trained."""
    from lens_sdk.cli.train import overrides_of
    from lens_sdk.models import require_packages

    values = overrides_of(settings)
    require_packages()
    from lens_core.training.plan import plan_training, planned_config

    found, chosen = planned_config(config, stage, values)
    made = plan_training(chosen, found, gpus, gpu, mfu, step_batches, text_tokens)
    out.print(_batches(made))
    out.print(_memory(made))
    out.print(_time(made))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _batches(plan: TrainingPlan) -> Table:
    """Operations by kind of batch."""
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


def _memory(plan: TrainingPlan) -> Table:
    """Memory by kind of checkpointing; the config's own is marked."""
    from lens_core.training.plan import GPU_MEMORY_GB

    memory, mine = plan.memory, plan.config.activation_checkpointing
    kinds = list(memory.activations)
    room = GPU_MEMORY_GB[plan.gpu]
    table = _table(
        f"GB of one {plan.gpu} ({room:g} there), without the frozen encoders",
        "activation checkpointing",
        *(f"{kind} (set)" if kind == mine else kind for kind in kinds),
    )
    for name, size in (
        ("master weights", memory.masters),
        ("gradients", memory.gradients),
        ("optimiser", memory.optimizer),
        ("moving average", memory.average),
        ("gathered weights", memory.gathered),
    ):
        table.add_row(name, *[f"{size:.2f}"] * len(kinds))
    table.add_row("activations", *(f"{memory.activations[kind]:.2f}" for kind in kinds))
    table.add_row("total", *(f"{memory.total(kind):.2f}" for kind in kinds))
    table.add_row("fits", *("yes" if plan.fits(kind) else "no" for kind in kinds))
    return table


def _time(plan: TrainingPlan) -> Table:
    """Steps, pictures, days."""
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
