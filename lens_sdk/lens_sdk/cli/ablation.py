"""`lens train ablation`: trains variants that differ in one thing, and compares their scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from lens_core.training.ablation.scoring import CellScore


@reports_errors
def ablation(
    study: Annotated[
        str, typer.Argument(help="What to vary: captions, encoder-layers, vae or rl-subsets.")
    ],
    config: ConfigOption = "nano",
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder with the training's inputs, to which variants are written. Default: "
            "runs/CONFIG.",
        ),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train variants that differ in one thing, with several seeds each, and compare scores.

    Finished variants are kept.

    Example: lens train ablation captions --set steps=500
    """
    from lens_sdk.cli.train import overrides_of
    from lens_sdk.models import require_packages

    texts = overrides_of(settings)
    require_packages()
    from lens_core.training.ablation.config import load_ablation
    from lens_core.training.ablation.run import run_ablation
    from lens_core.training.stages import setting_value

    overrides = {name: setting_value(text) for name, text in texts.items()}
    folder = output or Path("runs") / Path(config).stem
    report = run_ablation(study, load_ablation(config, overrides), folder, _tell)
    path = folder / study / "report.json"
    if as_json:
        print_json({**report.as_json(), "path": str(path)})
        return
    out.print(report.to_markdown(), markup=False, soft_wrap=True)
    out.print(str(path), markup=False, soft_wrap=True)


def _tell(variant: str, seed: int, score: CellScore) -> None:
    err.print(f"{variant}, seed {seed}: {score.score:.3f} over {score.pictures} images")
