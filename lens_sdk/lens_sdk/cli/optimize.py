"""`lens optimize`: a better system prompt for a reasoner and the generator it writes for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.choices import Strategy
from lens_sdk.cli.console import (
    DRAWING,
    JUDGE_HELP,
    LIMITS,
    PARTS,
    REASONER_HELP,
    SETTING,
    GuidanceOption,
    JsonOption,
    StepsOption,
    err,
    parse_size,
    print_json,
    reports_errors,
)
from lens_sdk.cli.optimize_follow import follow_study, tell_study
from lens_sdk.cli.options import ExtraOption, checked_options, extra_settings
from lens_sdk.cli.saving import check_output

if TYPE_CHECKING:
    from lens_prompt_opt import PromptSet

STUDY = "Study"
_LIMIT = "All limits apply to the whole study, including its final claim."


@reports_errors
def optimize(
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            help="JSONL file, one request per line: a JSON string, or an object with text.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            "--generator",
            help="The image model, as in lens generate. Repeat it to find one prompt for several "
            "models and one for each.",
            show_default=SETTING,
            rich_help_panel=PARTS,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the study.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue the run in this folder.")
    ] = None,
    budget_images: Annotated[
        int | None,
        typer.Option(
            "--budget-images",
            min=1,
            help=f"Maximum number of images. {_LIMIT}",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    budget_usd: Annotated[
        float | None,
        typer.Option(
            "--budget-usd", min=0, help="Maximum cost in US dollars.", rich_help_panel=LIMITS
        ),
    ] = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            "--budget-seconds", min=0, help="Maximum seconds of work.", rich_help_panel=LIMITS
        ),
    ] = None,
    budget_calls: Annotated[
        int | None,
        typer.Option(
            "--budget-calls", min=1, help="Maximum calls to any part.", rich_help_panel=LIMITS
        ),
    ] = None,
    seed_prompt: Annotated[
        Path | None,
        typer.Option(
            "--seed-prompt",
            help="System prompt to start from, .md or .json. Without one here or in the settings "
            "(system_prompt), the built-in one.",
            show_default=SETTING,
        ),
    ] = None,
    reasoner: Annotated[
        str | None,
        typer.Option(
            "--reasoner",
            help=f"{REASONER_HELP}auto, rules (offline, nano world only), local, gguf or "
            "openai:MODEL.",
            show_default=SETTING,
            rich_help_panel=PARTS,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            help=f"{JUDGE_HELP}auto, nano or openai:MODEL.",
            show_default=SETTING,
            rich_help_panel=PARTS,
        ),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(
            "--proposer",
            help="The proposer of edits: auto, library (offline, nano world only) or openai:MODEL.",
            show_default=SETTING,
            rich_help_panel=PARTS,
        ),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            "--strategy",
            help="Search strategy; rewrite is the published method.",
            rich_help_panel=STUDY,
        ),
    ] = Strategy.FACTORIAL,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha",
            min=0,
            max=1,
            help="Probability of accepting a prompt that is no better.",
            rich_help_panel=STUDY,
        ),
    ] = 0.05,
    min_gain: Annotated[
        float,
        typer.Option(
            "--min-gain",
            min=0,
            max=1,
            help="Minimum gain in mean score, 0 to 1.",
            rich_help_panel=STUDY,
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Seed for everything random.")
    ] = 0,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="WIDTHxHEIGHT in pixels for requests that set no size.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    extra: ExtraOption = None,
    gate_pictures: Annotated[
        int,
        typer.Option(
            "--gate-pictures",
            min=1,
            help="Images per request when testing edits.",
            rich_help_panel=STUDY,
        ),
    ] = 1,
    test_pictures: Annotated[
        int,
        typer.Option(
            "--test-pictures",
            min=1,
            help="Images per test request and prompt.",
            rich_help_panel=STUDY,
        ),
    ] = 2,
    show_pictures: Annotated[
        bool,
        typer.Option(
            "--show-pictures", help="Show failed images to the proposer.", rich_help_panel=STUDY
        ),
    ] = False,
    image_usd: Annotated[
        float | None,
        typer.Option(
            "--image-usd",
            min=0,
            help="Price per image, if the generator states none.",
            rich_help_panel=STUDY,
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", min=1, help="Maximum concurrent calls per part.", rich_help_panel=STUDY
        ),
    ] = 8,
    only_estimate: Annotated[
        bool, typer.Option("--estimate", help="Print what the budget will buy, and stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Improve the system prompt that rewrites requests.

    Edits are suggested, tried on some of the requests, and accepted only if images
    get better. The gain is then measured on unseen requests. Needs at least 16
    requests.

    Example: lens optimize --requests r.jsonl --out a --budget-images 900
    """
    from lens_prompt_opt import Budget
    from lens_sdk.optimize_run import OptimizeRun, StudyOrder
    from lens_sdk.settings import Settings

    limits = {
        "usd": budget_usd,
        "images": budget_images,
        "seconds": budget_seconds,
        "calls": budget_calls,
    }
    if resume is not None:
        if any((requests, models, output, seed_prompt, reasoner, judge, proposer)):
            raise typer.BadParameter("--resume only takes limits; the rest comes from the folder")
        run = OptimizeRun.resume(resume, budget=limits, provider=Settings.load().provider)
    else:
        if requests is None or output is None:
            raise typer.BadParameter("give --requests and --out, or --resume with a folder")
        if not any(limits.values()):
            raise typer.BadParameter("give a limit, such as --budget-images 1000")
        check_output(output)
        prompts = _requests(requests, size, steps, guidance, extra)
        settings = Settings.load(reasoner=reasoner, judge=judge, proposer=proposer)
        with checked_options():
            order = StudyOrder(
                generators=tuple(models or [settings.model]),
                reasoner=settings.reasoner,
                judge=settings.judge,
                rubric=settings.rubric,
                proposer=settings.proposer,
                strategy=strategy.value,
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
        run = OptimizeRun.begin(
            order,
            output,
            prompts=prompts,
            seed=seed_prompt or settings.prompt_for(settings.reasoner),
            provider=settings.provider,
        )
    with err.status("Looking at the parts"):
        estimate = run.estimate()
    err.print(str(estimate), markup=False, soft_wrap=True)
    if only_estimate:
        if as_json:
            print_json(estimate.model_dump(mode="json"))
        return
    with err.status("Loading"):
        run.load()
    tell_study(run, follow_study(run), as_json=as_json)


def _requests(
    path: Path,
    size: str | None,
    steps: int | None,
    guidance: float | None,
    extra: list[str] | None,
) -> PromptSet:
    """The requests of a file, with settings for those that have none of their own."""
    from lens_prompt_opt import PromptSet

    prompts = PromptSet.load(path)
    if prompts.duplicates:
        err.print(f"{prompts.duplicates} duplicate requests were left out.")
    width, height = parse_size(size)
    wanted = {
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "extra": extra_settings(extra) or None,
    }
    with checked_options():
        return prompts.with_defaults({name: v for name, v in wanted.items() if v is not None})
