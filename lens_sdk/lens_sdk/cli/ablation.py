"""`lens train ablation`: the same training with one thing changed, and a table of the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.console import err, out, reports_errors

if TYPE_CHECKING:
    from lens_core.training.ablation.scoring import CellScore


@reports_errors
def ablation(
    study: Annotated[str, typer.Argument(help="captions, encoder-layers, vae or rl-subsets.")],
    config: Annotated[
        str, typer.Option("--config", "-c", help="A preset such as nano, or a JSON file.")
    ] = "nano",
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder with what the training needs; cells go there."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the ablation as KEY=VALUE, such as seeds=[0,1] or "
            'settings={"steps": 500}; may be repeated.',
        ),
    ] = None,
) -> None:
    """Train every variant with every seed at equal steps; cells that are finished are kept."""
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
    out.print(report.to_markdown(), markup=False, soft_wrap=True)
    out.print(str(folder / study / "report.json"), markup=False, soft_wrap=True)


def _tell(variant: str, seed: int, score: CellScore) -> None:
    err.print(f"{variant}, seed {seed}: {score.score:.3f} over {score.pictures} pictures")
