"""`lens generate`: one request to one picture."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lens_reasoner import (
    AgentLoop,
    ImageRequest,
    LoopLimits,
    LoopResult,
    OnUnsupported,
    RunState,
)
from lens_sdk.cli.console import (
    REFUSED,
    GeneratorOption,
    GuidanceOption,
    JsonOption,
    JudgeOption,
    ReasonerOption,
    SeedOption,
    StepsOption,
    err,
    out,
    parse_size,
    reports_errors,
)
from lens_sdk.cli.memory import FeatureCacheOption, MemoryOption
from lens_sdk.cli.progress import RunDisplay
from lens_sdk.cli.report import print_json_report, print_report
from lens_sdk.cli.saving import save_pictures

DEFAULT_FOLDER = Path("lens-out")


@reports_errors
def generate(
    request: Annotated[
        str | None, typer.Argument(help="What the picture should show; not with --resume.")
    ] = None,
    model: GeneratorOption = None,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, such as 128x128.")
    ] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option("--aspect-ratio", help="Width to height, such as 3:4.")
    ] = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture to start from.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Where it may change: white, or transparent; --image's size."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="How much of --image is drawn anew, above 0 to 1."),
    ] = None,
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", help="What should not be in the picture.")
    ] = "",
    number: Annotated[
        int, typer.Option("--n", "-n", help="Pictures to draw and choose the best from.")
    ] = 1,
    rounds: Annotated[
        int, typer.Option("--rounds", help="Draw again, up to so often, while criteria fail.")
    ] = 1,
    max_images: Annotated[
        int | None, typer.Option("--max-images", help="Most pictures in all rounds together.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="Most US dollars to spend.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", help="Most seconds; then the best so far counts.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder to record the run in as it happens.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run recorded in this folder.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of results to use again, and to keep in.")
    ] = None,
    reasoner: ReasonerOption = None,
    system_prompt: Annotated[
        Path | None,
        typer.Option(
            "--system-prompt", help="What the reasoner follows: prompt.json of lens optimize, .md."
        ),
    ] = None,
    no_reason: Annotated[
        bool, typer.Option("--no-reason", help="Draw the request as it is.")
    ] = False,
    judge: JudgeOption = None,
    no_judge: Annotated[
        bool, typer.Option("--no-judge", help="Do not judge; the first picture counts.")
    ] = False,
    memory: MemoryOption = None,
    feature_cache: FeatureCacheOption = None,
    speed: Annotated[
        str | None,
        typer.Option("--speed", help="Faster paths of a Lens model: plain, exact or fast."),
    ] = None,
    drop_unsupported: Annotated[
        bool,
        typer.Option(
            "--drop-unsupported", help="Leave out settings the model cannot honour, with a warning."
        ),
    ] = False,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, or a file ending in .png.")
    ] = DEFAULT_FOLDER,
    keep_all: Annotated[
        bool, typer.Option("--all", help="Save every picture, not only the best.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a picture of a request: rewrite it, draw it, judge the pictures, save the best."""
    from lens_sdk.editing import start_from
    from lens_sdk.generators import (
        choose_generator,
        lens_model,
        load_generator,
        plan_memory,
        plan_speed,
    )
    from lens_sdk.session import build_loop
    from lens_sdk.settings import Settings

    started = time.perf_counter()
    width, height = parse_size(size)
    asked = None
    if (request is None) == (resume is None):
        raise typer.BadParameter("give either a request or --resume with the folder of a run")
    if image is None and (mask is not None or strength is not None):
        raise typer.BadParameter("--mask and --strength are for --image")
    if request is not None:
        asked = ImageRequest(
            text=request,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images=number,
        )
    limits = LoopLimits(
        max_rounds=rounds, max_images=max_images, max_usd=max_cost, deadline=deadline
    )
    settings = Settings.load(
        model=model,
        reasoner="none" if no_reason else reasoner,
        judge="none" if no_judge else judge,
        cache=cache,
    )
    lenient: OnUnsupported = "warn" if drop_unsupported else "raise"
    generator = choose_generator(settings.model, on_unsupported=lenient)
    plan_memory(generator, memory, feature_cache)
    plan_speed(generator, speed)
    if image is not None:
        generator = start_from(generator, image, mask, strength)
    loop = build_loop(
        generator,
        reasoner=settings.reasoner,
        judge=settings.judge,
        rubric_writer="auto" if settings.judge == "none" else settings.rubric,
        limits=limits,
        cache=settings.cache,
        on_unsupported=lenient,
        provider=settings.provider,
        system_prompt=system_prompt,
    )
    with (
        RunDisplay(err, rewrites=settings.reasoner != "none") as display,
        _told_how_to_resume(run_dir),
    ):
        loading = display.begin(f"Loading {generator.name}")
        load_generator(generator)
        display.end(loading)
        loaded = time.perf_counter() - started
        result = asyncio.run(_run(loop, asked, resume or run_dir, display))
    if result.refused is not None:
        err.print(f"Refused ({result.refused.category}): {result.refused.reason}", markup=False)
        raise typer.Exit(REFUSED)
    saved = save_pictures(result, output, lens_model(generator), keep_all=keep_all)
    report = print_json_report if as_json else print_report
    report(out, result, saved, {"load": loaded, **result.timings})


async def _run(
    loop: AgentLoop, request: ImageRequest | None, record: Path | None, display: RunDisplay
) -> LoopResult:
    """Run a request, or without one go on with what was recorded."""
    state = RunState()
    if request is None:
        assert record is not None
        stream = loop.stream_resumed(record)
    else:
        stream = loop.stream(request, record=record)
    async with aclosing(stream) as events:
        async for event in events:
            state.apply(event)
            display.show(event)
    return state.result()


@contextmanager
def _told_how_to_resume(run_dir: Path | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if run_dir is not None:
            err.print(f"Go on with: lens generate --resume {run_dir}", markup=False)
        raise
