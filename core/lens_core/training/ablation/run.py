"""Running of an ablation, cell by cell; what is finished is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lens_core.errors import CheckpointError
from lens_core.training.ablation.config import AblationConfig, Changes
from lens_core.training.ablation.scoring import CellScore, score_pipeline
from lens_core.training.ablation.studies import Study, study_by_name
from lens_core.training.ablation.table import AblationReport, VariantResult
from lens_core.training.config import load_config
from lens_core.training.stages import run_stage, stage_config

Report = Callable[[str, int, CellScore], None]


def run_ablation(
    name: str,
    config: AblationConfig,
    out: Path,
    report: Report = lambda *_: None,
) -> AblationReport:
    """Train and score every variant with every seed, and write `out/NAME/report.json`.

    A cell is a folder `out/NAME/VARIANT/seed-N` with the stage's own folder and, when it is
    finished, `result.json`; an ablation started again goes on with the first cell without one.

    Args:
        name: One of `STUDIES`.
        config: What cells have in common.
        out: Folder with what the stage needs: `data/` and `components/`, or `pretrain/pipeline`.
        report: Told of every cell when it is finished.

    Raises:
        ParameterError: No such ablation, or settings that the stage refuses.
        CheckpointError: A cell was finished with other settings.
    """
    study = study_by_name(name)
    folder = out / name
    own = {} if name == "vae" else dict(config.variants)
    variants = own or study.variants(config, folder)
    results: dict[str, dict[int, CellScore]] = {variant: {} for variant in variants}
    steps = 0
    for seed in config.seeds:
        for variant, changes in variants.items():
            values = _values(study, config, out, changes, seed)
            cell = folder / variant.replace(" ", "-") / f"seed-{seed}"
            results[variant][seed] = _cell(study, config, cell, values)
            steps = int(values["steps"])
            report(variant, seed, results[variant][seed])
    finished = AblationReport(
        study=name,
        question=study.question,
        steps=steps,
        variants=tuple(VariantResult(name=v, cells=cells) for v, cells in results.items()),
    )
    (folder / "report.json").write_text(json.dumps(finished.as_json(), indent=1) + "\n")
    return finished


def _values(
    study: Study, config: AblationConfig, out: Path, changes: Changes, seed: int
) -> dict[str, Any]:
    """The whole settings of a cell's stage."""
    settings = {**_shared(study, out), **config.settings}
    kind = stage_config(study.stage)
    base = load_config(kind, config.base_of(study.stage), study.stage, settings)
    values = {**base.model_dump(mode="json", exclude_unset=True), **changes, "seed": seed}
    if "model" in changes:
        values["model"] = {**getattr(base, "model", {}), **changes["model"]}
    return values


def _shared(study: Study, out: Path) -> Changes:
    """Where a cell finds what all cells share."""
    if study.stage == "rl":
        return {"start": str(out / "pretrain" / "pipeline")}
    return {
        "start": str(out / "components"),
        "data": str(out / "data"),
        "cache": str(out / "cache"),
        "sample_every": 0,
    }


def _cell(study: Study, config: AblationConfig, cell: Path, values: dict[str, Any]) -> CellScore:
    path = cell / "result.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["settings"] != values:
            raise CheckpointError(
                f"{cell} was finished with other settings; remove it, or choose another --out"
            )
        return CellScore.model_validate(known["score"])
    cell.mkdir(parents=True, exist_ok=True)
    source = cell / "config.json"
    source.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    stage = run_stage(study.stage, str(source), cell)
    score = score_pipeline(stage / "pipeline", config)
    record = {"settings": values, "score": score.model_dump()}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return score
