"""`lens convert`: converts a part of a model to another file layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.choices import Dtype
from lens_sdk.cli.console import JsonOption, err, print_json, reports_errors
from lens_sdk.models import require_packages


@reports_errors
def convert(
    source: Annotated[Path, typer.Argument(help="File or folder of one part of a model.")],
    target: Annotated[
        Path, typer.Argument(help="The file or folder to write; it must not exist yet.")
    ],
    layout: Annotated[
        str,
        typer.Option(
            "--to",
            help="The layout. Denoiser: diffusers, single, mxfp8, gguf. Text encoder: plain, "
            "mxfp4, nvfp4, gguf. Autoencoder: diffusers, single, bfl. LoRA: comfy.",
        ),
    ],
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Number format of unpacked tensors; auto is bfloat16.")
    ] = Dtype.AUTO,
    gguf_type: Annotated[
        str | None,
        typer.Option(
            "--gguf-type",
            help="Number format of large matrices in GGUF. Default: Q8_0, and MXFP4 for a text "
            "encoder's experts.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="A config.json, for models of other sizes than the published ones.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert one part of a model to another file layout, such as GGUF or 8 bits.

    Parts are the denoiser (transformer/), the text encoder and the autoencoder
    (vae/). A LoRA trained with lens can be converted for ComfyUI.

    Example: lens convert model/transformer denoiser.gguf --to gguf
    """
    require_packages()
    import torch

    from lens_core.checkpoints.convert import Target
    from lens_core.checkpoints.convert import convert as run
    from lens_sdk.cli.inspect import describe, show

    precision = torch.float32 if dtype is Dtype.FLOAT32 else torch.bfloat16
    own = None if config is None else Path(config)
    with err.status(f"Writing {target}"):
        info = run(source, Target(target, precision, gguf_type), layout, own)
    if as_json:
        print_json(describe(info))
    else:
        show(info)
