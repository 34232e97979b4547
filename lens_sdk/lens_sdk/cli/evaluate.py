"""`lens eval`: measured accuracy instead of an impression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from lens_sdk.cli.console import GuidanceOption, ModelOption, StepsOption, err, out, reports_errors
from lens_sdk.cli.progress import progress_bars
from lens_sdk.models import DEFAULT_MODEL

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
    out.print(str(run.save(report)), markup=False, soft_wrap=True)
