"""`lens eval`: measures a model's accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.choices import Prompts
from lens_sdk.cli.console import (
    GuidanceOption,
    JsonOption,
    ModelOption,
    StepsOption,
    err,
    out,
    parse_size,
    print_json,
    reports_errors,
)
from lens_sdk.cli.options import BatchOption
from lens_sdk.cli.progress import progress_bars
from lens_sdk.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from lens_core.nano.evaluation import NanoEvalReport

DEFAULT_FOLDER = Path("lens-eval")


@reports_errors
def evaluate(
    benchmark: Annotated[
        str, typer.Argument(help="The benchmark: nano, the only one so far.")
    ] = "nano",
    model: ModelOption = DEFAULT_MODEL,
    per_task: Annotated[
        int, typer.Option("--per-task", min=1, help="Requests for each of the six tasks.")
    ] = 50,
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Seed of the requests and the images.")
    ] = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    prompts: Annotated[
        Prompts,
        typer.Option(
            "--prompts",
            help="Prompts: full descriptions, short requests, or rewritten short requests.",
        ),
    ] = Prompts.DENSE,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="WIDTHxHEIGHT in pixels. Repeat it to use every request at several sizes. "
            "held-out means the sizes that lens-nano was not trained on.",
        ),
    ] = None,
    batch: BatchOption = 8,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results; existing results are kept.")
    ] = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Measure how often a model generates what was asked for, in the nano world.

    NanoEval has the six tasks of GenEval, a published benchmark: single objects,
    two objects, counting, colours, positions, colours of two objects. A detector
    scores the images.

    Example: lens eval nano --per-task 5
    """
    if benchmark != "nano":
        raise typer.BadParameter(
            f"{benchmark!r} is unknown; the only benchmark is nano", param_hint="BENCHMARK"
        )
    from lens_sdk.generators import local_generator
    from lens_sdk.nano_benchmark import BenchmarkSettings, NanoBenchmark

    generator = local_generator(model)
    settings = BenchmarkSettings(
        per_task=per_task,
        seed=seed,
        prompts=prompts.value,
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
    saved = run.save(report)
    if as_json:
        print_json({**json.loads(saved.read_text(encoding="utf-8")), "path": str(saved)})
        return
    out.print(report.to_markdown(), markup=False, soft_wrap=True)
    if by_size := run.report_by_size():
        out.print("\n" + _size_table(by_size), markup=False, soft_wrap=True)
    out.print(str(saved), markup=False, soft_wrap=True)


def _sizes(text: str) -> list[tuple[int, int]]:
    """Return the widths and heights that a `--size` names."""
    if text == "held-out":
        from lens_core.data.buckets import NANO_HELD_OUT

        return [(width, height) for height, width in NANO_HELD_OUT]
    width, height = parse_size(text)
    return [] if width is None or height is None else [(width, height)]


def _size_table(reports: dict[str, NanoEvalReport]) -> str:
    """Return a table of overall accuracies with their intervals."""
    lines = ["| width x height | overall | 95 % interval |", "|---|---:|---:|"]
    for name, report in reports.items():
        low, high = report.overall_interval
        lines.append(f"| {name} | {report.overall:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)
