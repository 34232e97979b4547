"""`lens rewrite`: shows the prompt that a request is rewritten to."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from lens_reasoner import ImageRequest, Refused, Rewrite
from lens_sdk.cli.client import command_settings, opened
from lens_sdk.cli.console import (
    REFUSED,
    GeneratorOption,
    JsonOption,
    ReasonerOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.options import (
    NegativeOption,
    RatioOption,
    ServerOption,
    SystemPromptOption,
    image_request,
)
from lens_sdk.settings import Settings


@reports_errors
def rewrite(
    request: Annotated[str, typer.Argument(help="What the image should show.")],
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    model: GeneratorOption = None,
    aspect_ratio: RatioOption = None,
    negative_prompt: NegativeOption = "",
    base_url: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rewrite a request into a detailed prompt and print it, without generating.

    Example: lens rewrite "four purple fish"
    """
    asked = image_request(request, aspect_ratio=aspect_ratio, negative_prompt=negative_prompt)
    settings = command_settings(
        model=model, reasoner=reasoner, system_prompt=system_prompt, base_url=base_url
    ).model_copy(update={"judge": "none"})
    outcome = asyncio.run(_rewrite(settings, asked))
    if as_json:
        print_json({"refused": isinstance(outcome, Refused), **outcome.model_dump(mode="json")})
    elif isinstance(outcome, Rewrite):
        out.print(Text(outcome.prompt), soft_wrap=True)
        for issue in outcome.issues:
            err.print(Text(f"{issue.kind}: {issue.detail}", style="yellow"), soft_wrap=True)
    else:
        err.print(f"Refused ({outcome.category}): {outcome.reason}", markup=False)
    if isinstance(outcome, Refused):
        raise typer.Exit(REFUSED)


async def _rewrite(settings: Settings, asked: ImageRequest) -> Rewrite | Refused:
    async with opened(settings) as (lens, _):
        with err.status("Rewriting"):
            return await lens.rewrite(asked)
