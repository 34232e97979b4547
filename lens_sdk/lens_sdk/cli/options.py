"""Options that several commands have, so that they are called and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import SETTING

SizeOption = Annotated[
    str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, such as 128x128.")
]
RatioOption = Annotated[
    str | None, typer.Option("--aspect-ratio", help="Width to height, such as 3:4.")
]
NegativeOption = Annotated[
    str, typer.Option("--negative-prompt", help="What should not be in the picture.")
]
MaxImagesOption = Annotated[
    int | None, typer.Option("--max-images", help="Most pictures in all rounds together.")
]
MaxCostOption = Annotated[
    float | None, typer.Option("--max-cost", help="Most US dollars to spend.")
]
DeadlineOption = Annotated[
    float | None, typer.Option("--deadline", help="Most seconds; then the best so far counts.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="A folder, or a file ending in .png.")]
AllOption = Annotated[bool, typer.Option("--all", help="Save every picture, not only the best.")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help='A Lens server to use, such as http://host:8000; "" is this machine.',
        show_default=SETTING,
    ),
]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", help="Folder of recorded runs.", show_default=SETTING),
]
