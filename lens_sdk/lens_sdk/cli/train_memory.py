"""`lens train memory`: shows how much memory fine-tuning needs under each plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.console import JsonOption, err, print_json, reports_errors
from lens_sdk.cli.memory import described, show
from lens_sdk.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from lens_core.memory.predict import Model
    from lens_core.training.lora.config import LoraTrainingConfig


@reports_errors
def memory(
    config: ConfigOption = "lens-lora",
    settings: SetOption = None,
    as_json: JsonOption = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Markdown file in which to replace the table.")
    ] = None,
) -> None:
    """Show how much memory lens train lora needs under each plan.

    The numbers are for the largest batch and the model that training starts from; published
    names stand for the published sizes. JSON is in bytes, the table in GiB.

    Example: lens train memory --config lens-lora --set rank=64
    """
    from lens_sdk.cli.train import overrides_of
    from lens_sdk.models import require_packages

    values = overrides_of(settings)
    require_packages()
    from lens_core.memory.plan import PLANS
    from lens_core.training.config import load_config
    from lens_core.training.lora.config import LoraTrainingConfig
    from lens_core.training.lora.frozen import can_have
    from lens_core.training.lora.memory import TUNING, predict_training
    from lens_core.training.stages import setting_value

    given = {name: setting_value(text) for name, text in values.items()}
    chosen = load_config(LoraTrainingConfig, config, "lora", given)
    model = _model(chosen)
    with err.status("Going through a step on the meta device"):
        plans = [plan for plan in PLANS.values() if can_have(plan, chosen)]
        found = [predict_training(chosen, model, plan) for plan in plans]
    if write is not None:
        TUNING.write(write, found)
    if as_json:
        full = {one.plan.name: one.plan.transformer_weights == "full" for one in found}
        print_json([{**described(one), "lossless": full[one.plan.name]} for one in found])
        return
    for work in dict.fromkeys(one.work for one in found):
        show(TUNING, [one for one in found if one.work == work])


def _model(config: LoraTrainingConfig) -> Model:
    """Return the sizes of the model that a run starts from."""
    from lens_core.checkpoints.sources import PRESETS
    from lens_core.memory.published import published_model
    from lens_core.training.lora.memory import blank_model
    from lens_core.training.mixed.start import model_arguments, pipeline_folder

    if config.start in PRESETS and not Path(config.start).is_dir():
        return published_model()
    start = pipeline_folder("lora", config.start, Path(config.start))
    return blank_model(config.model_copy(update={"model": model_arguments(start)}), start)
