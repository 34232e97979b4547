"""One function from a request to a judged image."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from lens_reasoner import (
    Cache,
    Generator,
    ImageRequest,
    Judge,
    LoopLimits,
    LoopResult,
    Reasoner,
    RubricWriter,
    SystemPrompt,
    run_sync,
)
from lens_sdk.generators import as_generator, load_generator
from lens_sdk.session import PartChoice, build_loop
from lens_sdk.settings import FROM_SETTINGS, FromSettings, Settings, given_or


async def agenerate(
    request: ImageRequest | str,
    *,
    model: str | Path | Generator | None = None,
    reasoner: PartChoice | Reasoner | FromSettings | None = FROM_SETTINGS,
    judge: PartChoice | Judge | FromSettings | None = FROM_SETTINGS,
    rubric_writer: PartChoice | RubricWriter | None = None,
    system_prompt: SystemPrompt | str | Path | FromSettings | None = FROM_SETTINGS,
    limits: LoopLimits | None = None,
    record: str | Path | None = None,
    cache: Cache | str | Path | FromSettings | None = FROM_SETTINGS,
    **options: Any,
) -> LoopResult:
    """Rewrite a request, generate images and judge them; `result.best` is the best one.

    For many requests, use `Lens` or build the loop once with `build_loop`, so that the model stays
    in memory. Arguments that are not given come from `Settings`.

    Args:
        request: What to generate.
        model: See `build_loop`.
        reasoner: See `build_loop`.
        judge: See `build_loop`.
        rubric_writer: See `build_loop`.
        system_prompt: See `build_loop`.
        limits: When the run ends, such as `LoopLimits(max_rounds=3, deadline=60)`; by default after
            one round.
        record: Folder for this run, where every event is written as it happens. If it already holds
            the same run, that run is resumed. See `AgentLoop.stream`.
        cache: See `build_loop`.
        **options: If `request` is text, fields of `ImageRequest`, such as `seed=1`, `num_images=4`,
            `width` and `height`.

    Raises:
        ReasonerError: The message says what was wrong and what to do; see `build_loop`.
        ValidationError: An option is not a field of `ImageRequest`, or is out of range.
    """
    known = Settings.load()
    drawing = known.model if model is None else model
    generator = as_generator(drawing)
    rewriting = given_or(reasoner, known.reasoner)
    loop = build_loop(
        generator,
        reasoner=rewriting,
        judge=given_or(judge, known.judge),
        rubric_writer=known.rubric if rubric_writer is None else rubric_writer,
        limits=limits,
        cache=given_or(cache, known.cache),
        provider=known.provider,
        system_prompt=given_or(system_prompt, known.prompt_for(rewriting)),
    )
    asked = ImageRequest.of(request, **options)
    # Loading blocks, so it runs in a thread to keep the event loop free.
    await asyncio.to_thread(load_generator, generator, asked)
    return await loop.run(asked, record=record)


def generate(
    request: ImageRequest | str,
    *,
    model: str | Path | Generator | None = None,
    reasoner: PartChoice | Reasoner | FromSettings | None = FROM_SETTINGS,
    judge: PartChoice | Judge | FromSettings | None = FROM_SETTINGS,
    rubric_writer: PartChoice | RubricWriter | None = None,
    system_prompt: SystemPrompt | str | Path | FromSettings | None = FROM_SETTINGS,
    limits: LoopLimits | None = None,
    record: str | Path | None = None,
    cache: Cache | str | Path | FromSettings | None = FROM_SETTINGS,
    **options: Any,
) -> LoopResult:
    """Rewrite a request, generate images and judge them; `result.best` is the best one.

    Synchronous version of `agenerate`, which also works in notebooks; same arguments and errors.

    Example:
        ```python
        result = lens_sdk.generate("two red apples left of a blue cup", num_images=4, seed=1)
        result.best.image.save("apples.png")
        ```
    """
    return run_sync(
        agenerate(
            request,
            model=model,
            reasoner=reasoner,
            judge=judge,
            rubric_writer=rubric_writer,
            system_prompt=system_prompt,
            limits=limits,
            record=record,
            cache=cache,
            **options,
        )
    )
