"""`lens train`: the training stages of `lens_core`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lens_sdk.cli.ablation import ablation
from lens_sdk.cli.choices import Memory
from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import ConfigOption, SetOption
from lens_sdk.cli.plan import plan
from lens_sdk.cli.train_memory import memory
from lens_sdk.shell_words import shell_word


class _Stages(TyperGroup):
    """A group with an optional `stage` command: any word that is no command is a stage."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Insert `stage` before a word that is no command."""
        if args and args[0] not in self.commands:
            args = ["stage", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Stages,
    help="Train a model stage by stage, as in lens train lora --images pictures, or plan it.",
    no_args_is_help=True,
)
app.command("plan")(plan)
app.command("ablation")(ablation)
app.command("memory")(memory)


@app.command("stage")
@reports_errors
def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="What to train: autoencoder, language, shards, pretrain, lowres, mixed, rl, "
            "distill or lora."
        ),
    ],
    config: ConfigOption = "nano",
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Training folder. Default: runs/CONFIG. An existing run resumes.",
        ),
    ] = None,
    settings: SetOption = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="For lora: folder or table of images and captions."),
    ] = None,
    plan_name: Annotated[
        Memory | None,
        typer.Option(
            "--memory",
            metavar="PLAN",
            help=f"For lora: memory plan, {', '.join(Memory)}; see lens train memory.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one stage of a model, or resume a stopped run.

    The word stage is optional.

    Example: lens train stage lora --config nano --images pictures
    """
    from lens_sdk.models import require_packages

    overrides = overrides_of(settings)
    if images is not None:
        overrides["images"] = json.dumps(str(images))
    elif stage == "lora" and "images" not in overrides and not _may_name_images(config):
        raise typer.BadParameter(
            "lora needs a folder or table of images and captions", param_hint="--images"
        )
    if plan_name is not None:
        overrides["memory"] = plan_name.value
    require_packages()
    from lens_core.training import run_stage
    from lens_core.training.workers import Workers
    from lens_sdk.runtime import no_loading_bars

    folder = output or Path("runs") / Path(config).stem
    with no_loading_bars():
        finished = run_stage(stage, config, folder, overrides)
    Workers().leave()
    if as_json:
        print_json({"stage": stage, "folder": str(finished)})
    else:
        out.print(f"Finished: {finished}", markup=False, soft_wrap=True)
        if stage == "lora":
            _tell_how_to_draw(finished / "weights")


def _may_name_images(config: str) -> bool:
    """Whether images can be found without --images: presets only name the folder `images`."""
    return Path(config).is_file() or Path("images").exists()


def _tell_how_to_draw(weights: Path) -> None:
    adapters = (weights / "adapter_config.json").is_file()
    option = "--lora" if adapters else "--model"
    line = f'Use it: lens generate "a red apple" {option} {shell_word(str(weights))}'
    err.print(line, markup=False, soft_wrap=True)


def overrides_of(settings: list[str] | None) -> dict[str, str]:
    """Parse `--set KEY=VALUE` options, with values as text."""
    return dict(_pair(setting) for setting in settings or [])


def _pair(setting: str) -> tuple[str, str]:
    key, separator, value = setting.partition("=")
    if not separator or not key.strip():
        raise typer.BadParameter(
            f"{setting!r} is not KEY=VALUE, such as steps=1000", param_hint="--set"
        )
    return key.strip(), value.strip()
