"""Names of the training stages and how to run one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lens_core.errors import ComponentError, ParameterError

STAGES = ("autoencoder", "language", "shards", "pretrain", "rl", "distill")
"""Stages in the order in which the nano model needs them."""


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
    values = {name: _value(text) for name, text in (overrides or {}).items()}
    if stage == "autoencoder":
        from lens_core.training.autoencoder import train_autoencoder
        from lens_core.training.config import AutoencoderConfig, load_config

        settings = load_config(AutoencoderConfig, config, stage, values)
        train_autoencoder(settings, out / stage, out / "components")
    elif stage == "language":
        from lens_core.training.config import LanguageConfig, load_config
        from lens_core.training.language import train_language

        train_language(
            load_config(LanguageConfig, config, stage, values), out / stage, out / "components"
        )
    elif stage in ("shards", "pretrain"):
        from lens_core.training.config import PretrainConfig, load_config
        from lens_core.training.pretrain import build_shards, pretrain

        for part in ("vae", "text_encoder", "tokenizer"):
            if not (out / "components" / part).is_dir():
                raise ComponentError(
                    f"{out / 'components' / part} is missing: run the stages before {stage} with "
                    "the same --out first (autoencoder, language)"
                )
        run = build_shards if stage == "shards" else pretrain
        run(load_config(PretrainConfig, config, "pretrain", values), out)
    elif stage == "rl":
        from lens_core.training.config import load_config
        from lens_core.training.nft.config import RLConfig
        from lens_core.training.nft.stage import train_rl

        tuning = load_config(RLConfig, config, stage, values)
        train_rl(tuning, _start(stage, tuning.start, out / "pretrain" / "pipeline"), out / stage)
    elif stage == "distill":
        from lens_core.training.config import load_config
        from lens_core.training.distill.config import DistillConfig
        from lens_core.training.distill.stage import distill

        shrinking = load_config(DistillConfig, config, stage, values)
        start = _start(stage, shrinking.start, out / "rl" / "pipeline")
        distill(shrinking, start, out / "shards", out / stage)
    else:
        raise ParameterError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    return out / stage


def _start(stage: str, given: str | None, usual: Path) -> Path:
    """The pipeline folder a stage starts from."""
    folder = usual if given is None else Path(given)
    if not (folder / "transformer").is_dir():
        raise ComponentError(
            f"{folder} holds no pipeline for {stage} to start from: run the stage before it with "
            "the same --out, or name a pipeline folder with --set start=FOLDER"
        )
    return folder


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
