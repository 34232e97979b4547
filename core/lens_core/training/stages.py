"""Names of the training stages and how to run one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_core.errors import ComponentError, ParameterError

if TYPE_CHECKING:
    from lens_core.training.config import StageConfig


@dataclass(frozen=True)
class Stage:
    """A training stage.

    Attributes:
        config: Its settings' class, as `module:name` below `lens_core.training`.
        run: Runs it with settings and the folder of the whole training.
        presets: The stage whose presets it reads.
    """

    config: str
    run: Callable[[Any, Path], None]
    presets: str | None = None


def _autoencoder(config: Any, out: Path) -> None:
    from lens_core.training.autoencoder import train_autoencoder

    train_autoencoder(config, out / "autoencoder", out / "components")


def _language(config: Any, out: Path) -> None:
    from lens_core.training.language import train_language

    train_language(config, out / "language", out / "components")


def _shards(config: Any, out: Path) -> None:
    from lens_core.training.pretrain import build_shards

    _check_components("shards", out)
    build_shards(config, out)


def _pretrain(config: Any, out: Path) -> None:
    from lens_core.training.pretrain import pretrain

    _check_components("pretrain", out)
    pretrain(config, out)


def _lowres(config: Any, out: Path) -> None:
    from lens_core.training.mixed.stage import train_mixed

    train_mixed(config, out, out / "lowres")


def _mixed(config: Any, out: Path) -> None:
    from lens_core.training.mixed.stage import train_mixed

    train_mixed(config, out, out / "mixed")


def _lora(config: Any, out: Path) -> None:
    from lens_core.training.lora.stage import train_lora

    train_lora(config, out / "lora")


def _rl(config: Any, out: Path) -> None:
    from lens_core.training.nft.stage import train_rl

    train_rl(config, _start("rl", config.start, out, ("mixed", "pretrain")), out / "rl")


def _distill(config: Any, out: Path) -> None:
    from lens_core.training.distill.stage import distill

    start = _start("distill", config.start, out, ("rl",))
    distill(config, start, out / "shards", out / "distill")


_STAGES: Mapping[str, Stage] = {
    "autoencoder": Stage("config:AutoencoderConfig", _autoencoder),
    "language": Stage("config:LanguageConfig", _language),
    "shards": Stage("config:PretrainConfig", _shards, presets="pretrain"),
    "pretrain": Stage("config:PretrainConfig", _pretrain),
    "lowres": Stage("mixed.config:MixedConfig", _lowres),
    "mixed": Stage("mixed.config:MixedConfig", _mixed),
    "rl": Stage("nft.config:RLConfig", _rl),
    "distill": Stage("distill.config:DistillConfig", _distill),
    "lora": Stage("lora.config:LoraTrainingConfig", _lora),
}

STAGES = tuple(_STAGES)
"""Stages in the order in which the nano model needs them; `lora` stands alone."""


def run_stage(
    stage: str, config: str, out: Path, overrides: Mapping[str, str] | None = None
) -> Path:
    """Run one stage to its end, resuming what `out` already holds.

    Args:
        stage: One of `STAGES`.
        config: A preset, such as `nano`, or a JSON file.
        out: Folder of the whole training; every stage keeps a folder of its own in it, and the
            finished components lie in `out/components`.
        overrides: Settings as text, read as JSON where that is possible: `{"steps": "100"}`.

    Returns:
        The stage's folder.

    Raises:
        ParameterError: No such stage, config or setting.
        ComponentError: A stage this one builds on has not been run in `out`.
    """
    from lens_core.training.config import load_config

    kind = stage_config(stage)
    values = {name: setting_value(text) for name, text in (overrides or {}).items()}
    entry = _STAGES[stage]
    entry.run(load_config(kind, config, entry.presets or stage, values), out)
    return out / stage


def stage_config(stage: str) -> "type[StageConfig]":
    """The class of a stage's settings.

    Raises:
        ParameterError: No such stage.
    """
    if stage not in _STAGES:
        raise ParameterError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    module, _, name = _STAGES[stage].config.partition(":")
    found: type[StageConfig] = getattr(import_module(f"lens_core.training.{module}"), name)
    return found


def _check_components(stage: str, out: Path) -> None:
    for part in ("vae", "text_encoder", "tokenizer"):
        if not (out / "components" / part).is_dir():
            raise ComponentError(
                f"{out / 'components' / part} is missing: run the stages before {stage} with "
                "the same --out first (autoencoder, language)"
            )


def _start(stage: str, given: str | None, out: Path, earlier: tuple[str, ...]) -> Path:
    """The pipeline folder a stage starts from: the given one, or an earlier stage's."""
    from lens_core.training.mixed.start import pipeline_folder

    usual = [out / name / "pipeline" for name in earlier]
    found = next((folder for folder in usual if (folder / "transformer").is_dir()), usual[-1])
    return pipeline_folder(stage, given, found)


def setting_value(text: str) -> Any:
    """A setting given as text: JSON where that is possible."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
