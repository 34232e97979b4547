"""`lens convert`: a part of a model in another file layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import err, reports_errors


class Precision(StrEnum):
    """Number format of what is not packed."""

    BF16 = "bf16"
    FP32 = "fp32"


@reports_errors
def convert(
    source: Annotated[Path, typer.Argument(help="File or folder of one part of a model.")],
    target: Annotated[Path, typer.Argument(help="What to write; it must not exist yet.")],
    layout: Annotated[
        str,
        typer.Option(
            "--to",
            help="Denoiser: diffusers, single, mxfp8, gguf. Text encoder: plain, mxfp4, nvfp4, "
            "gguf. Autoencoder: diffusers, single, bfl.",
        ),
    ],
    dtype: Annotated[
        Precision, typer.Option("--dtype", help="Of what is not packed.")
    ] = Precision.BF16,
    gguf_type: Annotated[
        str | None,
        typer.Option(
            "--gguf-type",
            help="Of large matrices in GGUF; Q8_0, for a text encoder's experts MXFP4.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="config.json, for files of other sizes than the published."),
    ] = None,
) -> None:
    """Write a denoiser, text encoder or autoencoder in another file layout."""
    import torch

    from lens_core.checkpoints.convert import Target
    from lens_core.checkpoints.convert import convert as run
    from lens_sdk.cli.inspect import show

    precision = torch.bfloat16 if dtype is Precision.BF16 else torch.float32
    with err.status(f"Writing {target}"):
        info = run(source, Target(target, precision, gguf_type), layout, config)
    show(info)
