"""`lens reproduce`: a saved picture made again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import LoraOption, lora_weights
from lens_sdk.cli.saving import check_output
from lens_sdk.models import MODEL_CHOICES

DIFFERENT = 4
"""Exit code of a picture whose pixels are not the same."""


@reports_errors
def reproduce(
    picture: Annotated[Path, typer.Argument(help="A picture that was saved by lens.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"What draws, if not what drew it: {MODEL_CHOICES}."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="What it started from, if that is not kept in the file."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="The mask, if that is not kept in the file.")
    ] = None,
    lora: LoraOption = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to save the new picture.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a saved picture again and say whether every pixel is the same; exit code 4 if not.

    Example: lens reproduce lens-out/apples-1.png
    """
    from lens_sdk.reproduce import reproduce as draw_again

    if output is not None:
        check_output(output)
    found = draw_again(picture, model=model, image=image, mask=mask, loras=lora_weights(lora))
    saved = None if output is None else found.again.save(output)
    if as_json:
        values = {
            "identical": found.identical,
            "difference": asdict(found.difference),
            "changes": list(found.changes),
            "saved": None if saved is None else str(saved),
        }
        print_json(values)
    else:
        for change in found.changes:
            err.print(f"Changed since: {change}", markup=False, soft_wrap=True)
        apart = found.difference
        out.print(
            "Identical: every pixel is the same."
            if found.identical
            else f"Different: {apart.pixels} of {apart.total} pixels, by at most {apart.largest} "
            "of 255.",
            markup=False,
            soft_wrap=True,
        )
        if saved is not None:
            out.print(f"Saved: {saved}", markup=False, soft_wrap=True)
    if not found.identical:
        raise typer.Exit(DIFFERENT)
