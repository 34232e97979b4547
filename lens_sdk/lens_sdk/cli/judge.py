"""`lens judge`: checks an image against a request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lens_reasoner import ImageFileError, ImageRequest, Rubric
from lens_reasoner.rubric_files import load_rubric
from lens_sdk.cli.client import command_settings, opened
from lens_sdk.cli.console import (
    BELOW,
    GeneratorOption,
    JsonOption,
    JudgeOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.options import ServerOption
from lens_sdk.cli.report import verdict_lines
from lens_sdk.client.resources import as_picture
from lens_sdk.client.types import Judgement
from lens_sdk.settings import Settings


@reports_errors
def judge(
    picture: Annotated[
        Path, typer.Argument(help="A PNG, JPEG or WebP file.", exists=True, dir_okay=False)
    ],
    request: Annotated[
        str | None,
        typer.Argument(help="What it should show; optional for images saved by lens."),
    ] = None,
    rubric: Annotated[
        Path | None,
        typer.Option("--rubric", help="A JSON file of criteria. Default: written by a model."),
    ] = None,
    judge: JudgeOption = None,
    model: GeneratorOption = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", min=0, max=1, help=f"Exit with code {BELOW} below this score."),
    ] = None,
    base_url: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an image against a request, criterion by criterion, and print the score.

    Example: lens judge apple.png "a red apple" --min-score 0.8
    """
    # Checked before a judge is paid.
    as_picture(picture)
    criteria = None if rubric is None else load_rubric(rubric)
    text = request or (criteria.request if criteria is not None else _request_of(picture))
    settings = command_settings(model=model, judge=judge, base_url=base_url).model_copy(
        update={"reasoner": "none"}
    )
    found = asyncio.run(_judge(settings, picture, ImageRequest(text=text), criteria))
    score = found.verdict.score
    if as_json:
        print_json({"score": score, **found.model_dump(mode="json")})
    else:
        for line in verdict_lines(found.rubric, found.verdict):
            out.print(line)
        shown = "no score" if score is None else f"{score:.2f}"
        out.print(Text(f"Score {shown}, by {found.verdict.judge}", style="bold"))
    if min_score is not None and (score is None or score < min_score):
        raise typer.Exit(BELOW)


async def _judge(
    settings: Settings, picture: Path, asked: ImageRequest, rubric: Rubric | None
) -> Judgement:
    async with opened(settings) as (lens, _):
        with err.status("Judging"):
            return await lens.judge(picture, asked, rubric=rubric)


def _request_of(picture: Path) -> str:
    """Return the recorded request of an image that this package generated."""
    from lens_sdk.metadata import read_record

    try:
        return str(read_record(picture)["request"]["text"])
    except (ImageFileError, KeyError, TypeError) as error:
        raise typer.BadParameter(
            f"{picture} does not say what it should show; give the request too"
        ) from error
