"""Follows a client's run to its end and reports it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from lens_reasoner import LoopResult
from lens_sdk.cli.console import REFUSED, err, print_json
from lens_sdk.cli.progress import RunDisplay
from lens_sdk.cli.report import print_json_report, print_report
from lens_sdk.cli.saving import save_pictures
from lens_sdk.client.backend import RunStream
from lens_sdk.models import LensModel


@dataclass(frozen=True)
class Followed:
    """The outcome of a run that was followed.

    Attributes:
        result: The result of the run.
        model: The local model that generated the images, if any.
        timings: Seconds by stage.
        run_id: The name of the run in the records.
    """

    result: LoopResult
    model: LensModel | None
    timings: Mapping[str, float]
    run_id: str | None


async def follow(console: Console, stream: RunStream, *, rewrites: bool) -> LoopResult:
    """Show a run's progress; on Ctrl-C, print how to resume it."""
    with RunDisplay(console, rewrites=rewrites) as display:
        try:
            async with stream:
                async for event in stream:
                    display.show(event)
        except asyncio.CancelledError:
            if stream.id is not None:
                console.print(f"Resume with: lens runs resume {stream.id}", markup=False)
            raise
    return stream.so_far


def tell(
    console: Console, followed: Followed, output: Path, *, keep_all: bool, as_json: bool
) -> None:
    """Save the images of a run and print its report.

    Raises:
        Exit: The request was refused.
        NothingDrawnError: There is no image.
    """
    result = followed.result
    if result.refused is not None:
        if as_json:
            print_json({"refused": True, **result.refused.model_dump(mode="json")})
        err.print(f"Refused ({result.refused.category}): {result.refused.reason}", markup=False)
        raise typer.Exit(REFUSED)
    saved = save_pictures(result, output, followed.model, keep_all=keep_all)
    if as_json:
        print_json_report(console, result, saved, followed.timings, run_id=followed.run_id)
        return
    print_report(console, result, saved, followed.timings, run_id=followed.run_id)
