"""`lens create`: runs the agentic loop, recorded, locally or on a server."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from lens_reasoner import ImageRequest, LoopLimits, LoopResult
from lens_sdk.cli.client import command_settings, opened, runs_folder
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
from lens_sdk.cli.following import Followed, follow, tell
from lens_sdk.cli.generate import DEFAULT_FOLDER
from lens_sdk.cli.options import (
    AllOption,
    DeadlineOption,
    ExtraOption,
    MaxCostOption,
    MaxImagesOption,
    NegativeOption,
    OutOption,
    RatioOption,
    RoundsOption,
    RunsOption,
    ServerOption,
    SizeOption,
    SystemPromptOption,
    image_request,
    loop_limits,
)
from lens_sdk.cli.saving import check_output
from lens_sdk.settings import Settings


@reports_errors
def create(
    request: Annotated[str, typer.Argument(help="What the image should show.")],
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
    max_images: MaxImagesOption = None,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    judge: JudgeOption = None,
    base_url: ServerOption = None,
    runs: RunsOption = None,
    output: OutOption = DEFAULT_FOLDER,
    keep_all: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Work on a request until it is met: rewrite, generate, judge, revise, repeat.

    Every run is recorded: lens runs list shows them, lens runs resume continues one.

    Example: lens create "two red apples left of a blue cup" --rounds 3
    """
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
    limits = loop_limits(rounds, max_images, max_cost, deadline)
    check_output(output)
    settings = command_settings(
        model=model,
        reasoner=reasoner,
        system_prompt=system_prompt,
        judge=judge,
        base_url=base_url,
        runs=runs,
    )
    if not settings.base_url:
        check_output(runs_folder(settings))
    followed = asyncio.run(_create(settings, asked, limits))
    tell(out, followed, output, keep_all=keep_all, as_json=as_json)


async def _create(settings: Settings, asked: ImageRequest, limits: LoopLimits) -> Followed:
    started = time.perf_counter()
    async with opened(settings, load=True, asked=asked) as (lens, model):
        loaded = time.perf_counter() - started
        stream = lens.stream(asked, limits=limits)
        result: LoopResult = await follow(err, stream, rewrites=settings.reasoner != "none")
        return Followed(result, model, {"load": loaded, **result.timings}, stream.id)
