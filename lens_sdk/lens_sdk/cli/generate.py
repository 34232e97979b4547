"""`lens generate`: generates the best image for one request."""

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
    LoopResult,
    OnUnsupported,
    RunRecord,
    RunState,
)
from lens_sdk.cli.console import (
    GeneratorOption,
    GuidanceOption,
    JsonOption,
    JudgeOption,
    ReasonerOption,
    SeedOption,
    StepsOption,
    err,
    out,
    reports_errors,
)
from lens_sdk.cli.following import Followed, tell
from lens_sdk.cli.options import (
    AllOption,
    CacheOption,
    DeadlineOption,
    DropOption,
    ExtraOption,
    FeatureCacheOption,
    ImageOption,
    LoraOption,
    MaskOption,
    MaxCostOption,
    MaxImagesOption,
    MemoryOption,
    NegativeOption,
    NoJudgeOption,
    NoReasonOption,
    NumberOption,
    OutOption,
    RatioOption,
    ResumeRunOption,
    RoundsOption,
    RunDirOption,
    SizeOption,
    SpeedOption,
    StrengthOption,
    SystemPromptOption,
    image_request,
    loop_limits,
    lora_weights,
)
from lens_sdk.cli.progress import RunDisplay
from lens_sdk.cli.saving import check_output

DEFAULT_FOLDER = Path("lens-out")


@reports_errors
def generate(
    request: Annotated[
        str | None, typer.Argument(help="What the image should show; not with --resume.")
    ] = None,
    model: GeneratorOption = None,
    size: SizeOption = None,
    aspect_ratio: RatioOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    image: ImageOption = None,
    mask: MaskOption = None,
    strength: StrengthOption = None,
    negative_prompt: NegativeOption = "",
    extra: ExtraOption = None,
    number: NumberOption = 1,
    rounds: RoundsOption = 1,
    max_images: MaxImagesOption = None,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeRunOption = None,
    cache: CacheOption = None,
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    no_reason: NoReasonOption = False,
    judge: JudgeOption = None,
    no_judge: NoJudgeOption = False,
    memory: MemoryOption = None,
    feature_cache: FeatureCacheOption = None,
    speed: SpeedOption = None,
    lora: LoraOption = None,
    drop_unsupported: DropOption = False,
    output: OutOption = DEFAULT_FOLDER,
    keep_all: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate images for a request: rewrite it, generate, judge, save the best.

    Example: lens generate "two red apples left of a blue cup" --n 4
    """
    from lens_sdk.editing import start_from
    from lens_sdk.generators import (
        choose_generator,
        lens_model,
        load_generator,
        plan_loras,
        plan_memory,
        plan_speed,
        refuse_unsupported,
    )
    from lens_sdk.session import build_loop
    from lens_sdk.settings import Settings

    started = time.perf_counter()
    if (request is None) == (resume is None):
        raise typer.BadParameter("give either a request or --resume with the folder of a run")
    if image is None and (mask is not None or strength is not None):
        raise typer.BadParameter("--mask and --strength are for --image")
    asked: ImageRequest | None = None
    if request is not None:
        asked = image_request(
            request,
            size=size,
            aspect_ratio=aspect_ratio,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            number=number,
            extra=extra,
        )
    loras = lora_weights(lora)
    limits = loop_limits(rounds, max_images, max_cost, deadline)
    for folder in (output, *filter(None, (run_dir, cache))):
        check_output(folder)
    if resume is not None:
        RunRecord(resume)
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
    plan_loras(generator, loras)
    if image is not None:
        generator = start_from(generator, image, mask, strength)
    if asked is not None:
        refuse_unsupported(generator, asked, lenient)
    loop = build_loop(
        generator,
        reasoner=settings.reasoner,
        judge=settings.judge,
        rubric_writer="auto" if settings.judge == "none" else settings.rubric,
        limits=limits,
        cache=settings.cache,
        on_unsupported=lenient,
        provider=settings.provider,
        system_prompt=system_prompt or settings.prompt_for(settings.reasoner),
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
    loaded_first = {"load": loaded, **result.timings}
    followed = Followed(result, lens_model(generator), loaded_first, run_id=None)
    tell(out, followed, output, keep_all=keep_all, as_json=as_json)


async def _run(
    loop: AgentLoop, request: ImageRequest | None, record: Path | None, display: RunDisplay
) -> LoopResult:
    """Run a request; without one, resume the recorded run."""
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
            err.print(f"Resume with: lens generate --resume {run_dir}", markup=False)
        raise
