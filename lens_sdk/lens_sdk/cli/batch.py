"""`lens batch`: runs the agentic loop for every request in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_reasoner import Generator, LoopLimits
from lens_sdk.cli.batch_display import BatchDisplay, summary
from lens_sdk.cli.client import command_settings
from lens_sdk.cli.console import (
    FAILED,
    INTERRUPTED,
    LIMITS,
    REFUSED,
    UNAVAILABLE,
    GeneratorOption,
    GuidanceOption,
    JsonOption,
    JudgeOption,
    ReasonerOption,
    SeedOption,
    StepsOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.interrupts import first_interrupt_stops
from lens_sdk.cli.options import (
    ExtraOption,
    NegativeOption,
    RatioOption,
    RoundsOption,
    SizeOption,
    SystemPromptOption,
    image_request,
    loop_limits,
)
from lens_sdk.cli.saving import check_output
from lens_sdk.generators import choose_generator, lens_model, load_generator

if TYPE_CHECKING:
    from lens_sdk.batch import Batch
    from lens_sdk.batch_results import BatchResult
    from lens_sdk.settings import Settings

_ALL = "for all requests together"
_WHY = {
    "interrupted": "Stopped. Run the same command to resume.",
    "deadline": "The deadline has passed. Run the same command to resume.",
    "max_cost": "The cost limit is reached. Run the same command with a higher --max-cost.",
    "cost_unknown": "The cost of some calls is unknown (no price or no answer), so "
    "that --max-cost cannot be kept: set prices (LENS_PRICES), or leave it out.",
}
"""Messages for each reason why requests are left, with what to do."""


@reports_errors
def batch(
    file: Annotated[
        Path,
        typer.Argument(
            help="Requests: a text file with one per line, or JSON lines (.jsonl) with strings or "
            "objects with text, id, seed and so on."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the batch; finished requests are kept.")
    ],
    model: GeneratorOption = None,
    size: SizeOption = None,
    aspect_ratio: RatioOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    negative_prompt: NegativeOption = "",
    extra: ExtraOption = None,
    number: Annotated[int, typer.Option("--n", "-n", min=1, help="Images per round.")] = 2,
    rounds: RoundsOption = 3,
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost",
            min=0,
            help=f"Maximum cost in US dollars {_ALL}, including earlier spending.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline",
            min=0,
            help=f"Maximum seconds {_ALL}; run the same command to resume.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests in progress at once.")
    ] = 4,
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    judge: JudgeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do what lens create does for every request in a file; write a table of results.

    To resume, run the same command again; failed requests are tried again. Options
    apply to requests that do not set the value themselves.

    Example: lens batch requests.txt --out apples --rounds 2
    """
    usual = image_request(
        "any",
        size=size,
        aspect_ratio=aspect_ratio,
        negative_prompt=negative_prompt,
        seed=seed,
        steps=steps,
        guidance=guidance,
        number=number,
        extra=extra,
    )
    limits = loop_limits(rounds, None, max_cost, deadline)
    check_output(output)
    settings = command_settings(
        model=model, reasoner=reasoner, system_prompt=system_prompt, judge=judge, base_url=""
    )
    given = usual.model_dump(exclude={"text"}, exclude_defaults=True)
    generator, prepared = _prepared(file, output, given, settings, limits)
    with prepared as found:
        if found.todo:
            with err.status(f"Loading {generator.name}"):
                load_generator(generator)
        display = BatchDisplay(err, found, max_usd=max_cost)
        try:
            with display.shown(), first_interrupt_stops(found.stop, display):
                asyncio.run(
                    found.draw(
                        concurrency=concurrency, on_event=display.event, on_result=display.result
                    )
                )
        except KeyboardInterrupt:
            err.print("Run the same command to resume.")
            raise
    _tell(found, as_json=as_json)


def _prepared(
    file: Path, output: Path, given: dict[str, Any], settings: Settings, limits: LoopLimits
) -> tuple[Generator, Batch]:
    """Return the generator and the batch, fully checked; nothing is loaded or paid for yet."""
    from lens_sdk.batch import Batch
    from lens_sdk.batch_requests import check_requests, read_requests
    from lens_sdk.session import build_loop

    requests = read_requests(file, given)
    generator = choose_generator(settings.model)
    check_requests(file, requests, generator)
    loop = build_loop(
        generator,
        reasoner=settings.reasoner,
        judge=settings.judge,
        rubric_writer="auto" if settings.judge == "none" else settings.rubric,
        limits=LoopLimits(max_rounds=limits.max_rounds),
        cache=settings.cache,
        provider=settings.provider,
        system_prompt=settings.prompt_for(settings.reasoner),
    )
    return generator, Batch(
        output,
        requests,
        loop,
        model=lens_model(generator),
        max_usd=limits.max_usd,
        deadline=limits.deadline,
    )


def _tell(batch: Batch, *, as_json: bool) -> None:
    """Print the results; the exit code says whether they are complete.

    Raises:
        Exit: Requests failed or are left.
    """
    if as_json:
        print_json(_values(batch))
    else:
        out.print(str(batch.results_file), markup=False, soft_wrap=True)
    err.print(summary(batch), markup=False)
    if batch.todo:
        err.print(_WHY[batch.stopped or "interrupted"], soft_wrap=True)
        raise typer.Exit(INTERRUPTED if batch.stopped == "interrupted" else FAILED)
    failed = [row for row in batch.results.values() if row.error is not None]
    if batch.may_work_later:
        raise typer.Exit(UNAVAILABLE)
    if failed:
        raise typer.Exit(REFUSED if all(row.error_kind == "refused" for row in failed) else FAILED)


def _values(batch: Batch) -> dict[str, Any]:
    rows = [batch.results[one.id] for one in batch.requests if one.id in batch.results]
    return {
        "results": str(batch.results_file),
        "left": len(batch.todo),
        "stopped": batch.stopped if batch.todo else None,
        "usd": batch.usd,
        "requests": [_row(batch, row) for row in rows],
    }


def _row(batch: Batch, row: BatchResult) -> dict[str, Any]:
    """Return a result, with its path relative to the current folder."""
    picture = batch.picture(row)
    return {**row.model_dump(mode="json"), "path": None if picture is None else str(picture)}
