"""`lens eval`: measured accuracy instead of an impression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lens_sdk.cli.console import (
    GuidanceOption,
    ModelOption,
    StepsOption,
    err,
    out,
    parse_size,
    reports_errors,
)
from lens_sdk.cli.progress import progress_bars
from lens_sdk.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from lens_core.nano.evaluation import NanoEvalReport

DEFAULT_FOLDER = Path("lens-eval")


@reports_errors
def evaluate(
    benchmark: Annotated[str, typer.Argument(help="nano, the only one so far.")] = "nano",
    model: ModelOption = DEFAULT_MODEL,
    per_task: Annotated[
        int, typer.Option("--per-task", min=1, help="Requests for each of the six tasks.")
    ] = 50,
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Chooses requests and noise.")
    ] = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    prompts: Annotated[
        str, typer.Option("--prompts", help="dense, brief, or reasoned: brief ones rewritten.")
    ] = "dense",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="Width and height of all pictures, as in 128x112; may be repeated, and every "
            "request is drawn at each. held-out stands for those that no nano stage trains on.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures drawn at once.")] = 8,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder; results found there are kept.")
    ] = DEFAULT_FOLDER,
) -> None:
    """Measure a model on NanoEval: GenEval's six tasks in the nano world."""
    if benchmark != "nano":
        raise typer.BadParameter(f"benchmark {benchmark!r} is not known; there is: nano")
    from lens_sdk.generators import local_generator
    from lens_sdk.nano_benchmark import BenchmarkSettings, NanoBenchmark, PromptKind

    generator = local_generator(model)
    settings = BenchmarkSettings(
        per_task=per_task,
        seed=seed,
        prompts=cast(PromptKind, prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        sizes=tuple(size for text in sizes or () for size in _sizes(text)),
    )
    run = NanoBenchmark(generator.runtime, settings, output)
    with err.status(f"Loading {generator.name}"):
        generator.runtime.load()
    with progress_bars(err) as bars:
        task = bars.add_task(f"NanoEval, {prompts} prompts", total=run.total)
        for done in run.advance(batch):
            bars.update(task, completed=done)
    report = run.report()
    out.print(report.to_markdown(), markup=False, soft_wrap=True)
    if by_size := run.report_by_size():
        out.print("\n" + _size_table(by_size), markup=False, soft_wrap=True)
    out.print(str(run.save(report)), markup=False, soft_wrap=True)


def _sizes(text: str) -> list[tuple[int, int]]:
    """Widths and heights that a `--size` names."""
    if text == "held-out":
        from lens_core.data.buckets import NANO_HELD_OUT

        return [(width, height) for height, width in NANO_HELD_OUT]
    width, height = parse_size(text)
    return [] if width is None or height is None else [(width, height)]


def _size_table(reports: dict[str, NanoEvalReport]) -> str:
    """Overall accuracies with their intervals."""
    lines = ["| width x height | overall | 95 % interval |", "|---|---:|---:|"]
    for name, report in reports.items():
        low, high = report.overall_interval
        lines.append(f"| {name} | {report.overall:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)
