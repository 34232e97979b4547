"""`lens reproduce`: generates a saved image again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lens_reasoner import ImageFileError
from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import LoraOption, lora_weights
from lens_sdk.cli.saving import check_output, place
from lens_sdk.models import MODEL_CHOICES

DIFFERENT = 4
"""Exit code if any pixel differs."""


@reports_errors
def reproduce(
    picture: Annotated[Path, typer.Argument(help="An image saved by lens.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"Use another model: {MODEL_CHOICES}."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="The source image, if it is not stored in the file."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="The mask, if it is not stored in the file.")
    ] = None,
    lora: LoraOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where to save the new image: a folder, or a file ending in .png.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate a saved image again and compare every pixel; exit code 4 if any differ.

    Example: lens reproduce lens-out/apples-1.png
    """
    from lens_sdk.reproduce import reproduce as draw_again

    target = None if output is None else _target(output, picture)
    try:
        found = draw_again(picture, model=model, image=image, mask=mask, loras=lora_weights(lora))
    except ImageFileError as error:
        raise ImageFileError(
            f"{picture} cannot be read: {error.message}",
            hint="Give an unchanged image file saved by lens.",
        ) from error
    saved = None if target is None else found.again.save(target)
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


def _target(output: Path, picture: Path) -> Path:
    """Return the path for the new image, which lacks the original's request and verdict."""
    check_output(output)
    target = place(output, picture.name)
    file = target.with_suffix(picture.suffix)
    if file.exists() and file.samefile(picture):
        raise typer.BadParameter(
            f"{output} is the source image, which would lose its request and verdict; name "
            "another file",
            param_hint="--out",
        )
    return target
