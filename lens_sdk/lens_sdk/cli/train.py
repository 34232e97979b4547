"""`lens train`: the training stages of `lens_core`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import out, reports_errors


@reports_errors
def train(
    stage: Annotated[
        str, typer.Argument(help="autoencoder, language, shards, pretrain, rl or distill.")
    ],
    config: Annotated[
        str, typer.Option("--config", "-c", help="A preset such as nano, or a JSON file.")
    ] = "nano",
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the training; a run found there goes on."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the stage as KEY=VALUE; may be repeated."),
    ] = None,
) -> None:
    """Train one stage of a model, or go on with a run."""
    from lens_sdk.models import require_packages

    overrides = dict(_pair(setting) for setting in settings or [])
    require_packages()
    from lens_core.training import run_stage

    folder = output or Path("runs") / Path(config).stem
    finished = run_stage(stage, config, folder, overrides)
    out.print(f"Finished: {finished}", markup=False, soft_wrap=True)


def _pair(setting: str) -> tuple[str, str]:
    key, separator, value = setting.partition("=")
    if not separator or not key.strip():
        raise typer.BadParameter(f"{setting!r} is not KEY=VALUE, such as steps=1000")
    return key.strip(), value.strip()
