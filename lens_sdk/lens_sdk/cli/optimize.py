"""`lens optimize`: a better system prompt for a reasoner and the generator it writes for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.console import (
    INTERRUPTED,
    GuidanceOption,
    JsonOption,
    StepsOption,
    err,
    out,
    parse_size,
    reports_errors,
)
from lens_sdk.cli.optimize_display import StudyDisplay, show_result

if TYPE_CHECKING:
    from lens_prompt_opt import PromptSet, StopSwitch, StudyResult
    from lens_sdk.optimize_run import OptimizeRun

_LIMIT = "All limits together hold for the whole study, its final claim included."


@reports_errors
def optimize(
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help="JSONL file: a request per line, as text or an object."),
    ] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(
            "--generator",
            "-g",
            help="What draws, as --model of lens generate; several "
            "find one prompt for all and one for each.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", help=f"Most US dollars. {_LIMIT}")
    ] = None,
    budget_images: Annotated[
        int | None, typer.Option("--budget-images", help="Most pictures.")
    ] = None,
    budget_seconds: Annotated[
        float | None, typer.Option("--budget-seconds", help="Most seconds of work.")
    ] = None,
    budget_calls: Annotated[
        int | None, typer.Option("--budget-calls", help="Most calls to any part.")
    ] = None,
    seed_prompt: Annotated[
        Path | None,
        typer.Option("--seed-prompt", help="System prompt to start from, .md or .json."),
    ] = None,
    reasoner: Annotated[
        str, typer.Option("--reasoner", help="Who rewrites: auto, rules, local or openai:MODEL.")
    ] = "auto",
    judge: Annotated[
        str, typer.Option("--judge", help="Who judges: auto, nano or openai:MODEL.")
    ] = "auto",
    proposer: Annotated[
        str,
        typer.Option("--proposer", help="Who suggests edits: auto, library or openai:MODEL."),
    ] = "auto",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="factorial, rewrite (the published method), pareto, examples, random, beam, gepa.",
        ),
    ] = "factorial",
    alpha: Annotated[
        float, typer.Option("--alpha", help="Chance to accept a prompt that is no better.")
    ] = 0.05,
    min_gain: Annotated[
        float, typer.Option("--min-gain", help="Gain in mean score that must be exceeded, 0 to 1.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Everything random follows from it.")
    ] = 0,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT of requests that name none.")
    ] = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    gate_pictures: Annotated[
        int,
        typer.Option("--gate-pictures", min=1, help="Pictures per request where edits are tested."),
    ] = 1,
    test_pictures: Annotated[
        int, typer.Option("--test-pictures", min=1, help="Pictures per test request and prompt.")
    ] = 2,
    show_pictures: Annotated[
        bool, typer.Option("--show-pictures", help="Let the proposer see failed pictures.")
    ] = False,
    image_usd: Annotated[
        float | None,
        typer.Option("--image-usd", help="Price of a picture where the generator states none."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Most calls of one part at a time.")
    ] = 8,
    only_estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what the budget will buy, and stop there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Improve a reasoner's system prompt over many requests, with a claim that holds."""
    from lens_prompt_opt import Budget
    from lens_sdk.optimize_run import OptimizeRun, StudyOrder
    from lens_sdk.settings import Settings

    provider = Settings.load().provider
    limits = {
        "usd": budget_usd,
        "images": budget_images,
        "seconds": budget_seconds,
        "calls": budget_calls,
    }
    if resume is not None:
        if requests or generator or output or seed_prompt:
            raise typer.BadParameter("--resume takes only limits; the rest stands in the folder")
        with err.status("Loading"):
            run = OptimizeRun.resume(resume, budget=limits, provider=provider)
    else:
        if requests is None or not generator or output is None:
            raise typer.BadParameter("give --requests, --generator and --out, or --resume")
        if not any(limits.values()):
            raise typer.BadParameter("give a limit, such as --budget-images 1000")
        order = StudyOrder(
            generators=tuple(generator),
            reasoner=reasoner,
            judge=judge,
            proposer=proposer,
            strategy=strategy,
            budget=Budget.model_validate(limits),
            random_seed=seed,
            alpha=alpha,
            min_gain=min_gain,
            gate_pictures=gate_pictures,
            test_pictures=test_pictures,
            show_pictures=show_pictures,
            image_usd=image_usd,
            concurrency=concurrency,
        )
        prompts = _requests(requests, size, steps, guidance)
        with err.status("Loading"):
            run = OptimizeRun.begin(
                order, output, prompts=prompts, seed=seed_prompt, provider=provider
            )
    err.print(str(run.estimate()), markup=False, soft_wrap=True)
    if only_estimate:
        return
    _report(run, _followed(run), as_json=as_json)


def _requests(path: Path, size: str | None, steps: int | None, guidance: float | None) -> PromptSet:
    """The requests of a file, with settings for those that have none of their own."""
    from lens_prompt_opt import PromptSet

    prompts = PromptSet.load(path)
    if prompts.duplicates:
        err.print(f"{prompts.duplicates} requests were there already and are left out.")
    width, height = parse_size(size)
    wanted = {
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    return prompts.with_defaults({name: v for name, v in wanted.items() if v is not None})


def _followed(run: OptimizeRun) -> StudyResult:
    """Run the study, shown as it goes; an interruption says how to go on."""
    from lens_prompt_opt import StopSwitch, StudyInterruptedError

    display, stop = StudyDisplay(err, run.order.budget), StopSwitch()
    go_on = f"Go on with: lens optimize --resume {run.folder}"

    async def work() -> StudyResult:
        with _first_interrupt_stops(stop, display):
            return await run.run(on_progress=display.update, stop=stop)

    try:
        with display.shown():
            return asyncio.run(work())
    except StudyInterruptedError as error:
        if display.notice:
            err.print(f"Stopped. {go_on}", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        error.hint = go_on
        raise
    except KeyboardInterrupt:
        err.print(go_on, markup=False, soft_wrap=True)
        raise


@contextmanager
def _first_interrupt_stops(stop: StopSwitch, display: StudyDisplay) -> Iterator[None]:
    """Ctrl-C finishes the calls under way, so that none is paid for in vain; a second one ends."""
    before = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        stop.press()
        display.notice = "Finishing the calls under way; Ctrl-C again stops at once."
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _report(run: OptimizeRun, result: StudyResult, *, as_json: bool) -> None:
    if as_json:
        out.print_json(result.model_dump_json(exclude={"run_dir"}))
        return
    show_result(out, result)
    out.print(str(run.folder / "prompt.json"), markup=False, soft_wrap=True)
    err.print(f"Pictures and everything else: lens report {run.folder}", markup=False)
