"""Ablations at toy size: a table with intervals comes out, and finished cells are kept."""

import json
from pathlib import Path

import pytest

from lens_core.errors import CheckpointError, LensCoreError, ParameterError
from lens_core.training.ablation.config import AblationConfig, load_ablation
from lens_core.training.ablation.run import _values, run_ablation
from lens_core.training.ablation.scoring import CellScore
from lens_core.training.ablation.studies import STUDIES, study_by_name
from lens_core.training.ablation.table import AblationReport, VariantResult, seed_interval
from lens_core.training.config import load_config
from lens_core.training.nft.config import RLConfig
from tiny_components import tiny_pipeline
from tiny_data import MIXED, write_data

CELL = {
    "steps": 2,
    "learning_rate": 0.05,
    "ema_decay": 0.0,
    "batch_sizes": {"48": 2, "64": 2},
    "loader_threads": 0,
}
TWO = {
    name: study_by_name("captions").variants(load_ablation("nano", {}), Path())[name]
    for name in ("dense", "mixed")
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation")
    tiny_pipeline().save_pretrained(out / "components")
    write_data(out / "data", 12)
    return out


def tiny_config(**changes: object) -> AblationConfig:
    arguments = dict(tiny_pipeline().transformer.config)
    settings = {name: json.loads(_text(value)) for name, value in MIXED.items()}
    settings |= {"model": {k: v for k, v in arguments.items() if not k.startswith("_")}}
    values = {
        "settings": settings | CELL,
        "seeds": [0, 1],
        "reward": "tiny_rewards:brightness",
        "pictures": 2,
        "sizes": [[48, 48]],
        "sampling_steps": 1,
        "guidance_scale": 1.0,
    }
    return load_ablation("nano", values | changes)


def _text(value: str) -> str:
    return json.dumps(value) if value.isalnum() and not value.isdigit() else value


def test_a_table_comes_out_and_finished_cells_are_kept(training: Path) -> None:
    told: list[tuple[str, int]] = []
    config = tiny_config(variants=TWO)
    report = run_ablation("captions", config, training, lambda v, s, _: told.append((v, s)))
    assert told == [(v, s) for s in (0, 1) for v in TWO]
    table = report.to_markdown()
    assert "(2 steps)" in table
    for variant in report.variants:
        assert variant.interval is not None
        low, high = variant.interval
        assert low < variant.mean < high
        row = f"| {variant.name} | 2 | {variant.mean:.3f} | {low:.3f} to {high:.3f} |"
        assert row in table
    weights = "lowres/pipeline/transformer/diffusion_pytorch_model.safetensors"
    models = [(training / "captions" / v / "seed-0" / weights).read_bytes() for v in TWO]
    assert models[0] != models[1]
    saved = json.loads((training / "captions" / "report.json").read_text())
    assert [row["name"] for row in saved["variants"]] == list(TWO)

    cell = training / "captions" / "mixed" / "seed-1"
    (cell / "result.json").unlink()
    others = [p for p in (training / "captions").rglob("log.jsonl") if cell not in p.parents]
    before = {path: path.stat().st_mtime_ns for path in others}
    assert run_ablation("captions", config, training) == report
    assert before == {path: path.stat().st_mtime_ns for path in others}
    other = tiny_config(variants=TWO, settings=config.settings | {"learning_rate": 0.5})
    with pytest.raises(CheckpointError, match="finished with other settings"):
        run_ablation("captions", other, training)


def test_cells_differ_in_the_variant_alone(training: Path) -> None:
    config = tiny_config()
    study = study_by_name("encoder-layers")
    variants = study.variants(config, training)
    cells = {name: _values(study, config, training, v, 7) for name, v in variants.items()}
    layers = {name: cell["model"].pop("selected_layer_index") for name, cell in cells.items()}
    assert layers == {"last": [1], "middle": [0], "several": [0, 1]}
    assert cells["last"] == cells["several"] == cells["middle"]
    assert cells["last"]["seed"] == 7


def test_autoencoders_bring_their_channels(training: Path) -> None:
    parts = str(training / "components")
    config = tiny_config(variants={"a": {"start": parts}, "b": {"start": parts, "steps": 3}})
    study = study_by_name("vae")
    variants = study.variants(config, training)
    cell = _values(study, config, training, variants["b"], 0)
    assert (cell["start"], cell["steps"]) == (parts, 3)
    assert (cell["model"]["in_channels"], cell["model"]["out_channels"]) == (16, 4)
    with pytest.raises(ParameterError, match="name folders that hold vae/"):
        study.variants(tiny_config(), training)


def test_prompt_subsets_are_nested_files(tmp_path: Path) -> None:
    config = load_ablation("nano", {"prompt_count": 24})
    study = study_by_name("rl-subsets")
    found = {}
    for name, changes in study.variants(config, tmp_path).items():
        cell = _values(study, config, tmp_path, changes, 1)
        assert load_config(RLConfig, "nano", "rl", cell).prompts == changes["prompts"]
        lines = Path(changes["prompts"]).read_text().splitlines()
        found[name] = [json.loads(line) for line in lines]
    assert len(found["quarter"]) == 6
    assert found["half"][:6] == found["quarter"]
    assert found["all"][:12] == found["half"]
    kept = found["without counting"]
    assert kept == [row for row in found["all"] if row["tag"] != "counting"]
    assert 0 < len(kept) < 24
    with pytest.raises(ParameterError, match="excluded 'dogs' is no prompt's tag"):
        study.variants(load_ablation("nano", {"excluded": "dogs", "prompt_count": 8}), tmp_path)


def test_ones_own_variants_need_none_of_the_studys(tmp_path: Path) -> None:
    """Its subsets of prompts were made, and refused, all the same."""
    own = {"variants": {"mine": {"steps": "none"}}, "excluded": "dogs", "prompt_count": 8}
    with pytest.raises(ParameterError, match="steps"):
        run_ablation("rl-subsets", load_ablation("nano", own), tmp_path)
    assert not (tmp_path / "rl-subsets" / "prompts").exists()


def test_intervals_are_students_over_seeds_and_wilsons_over_pictures() -> None:
    assert seed_interval([0.5]) is None
    low, high = seed_interval([0.4, 0.5, 0.6]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.5 - 0.2484, 0.5 + 0.2484), abs=1e-4)
    cells = {s: CellScore(score=0.4, strict=0.5, pictures=50) for s in (0, 1)}
    pooled = VariantResult(name="v", cells=cells).strict
    assert pooled is not None
    assert pooled[0] == 0.5
    assert pooled[1] == pytest.approx((0.4038, 0.5962), abs=1e-4)
    one = VariantResult(name="v", cells={0: CellScore(score=0.4, strict=None, pictures=5)})
    table = AblationReport(study="s", question="Q?", steps=2, variants=(one,)).to_markdown()
    assert "| v | 1 | 0.400 | one seed |  |  |" in table


def test_names_and_settings_are_checked(training: Path) -> None:
    assert set(STUDIES) == {"captions", "encoder-layers", "vae", "rl-subsets"}
    with pytest.raises(ParameterError, match="no ablation 'noise'"):
        run_ablation("noise", tiny_config(), training)
    with pytest.raises(ParameterError, match="seeds"):
        load_ablation("nano", {"seeds": []})
    with pytest.raises(ParameterError, match="neither a preset"):
        load_ablation("giant", {})
    with pytest.raises(ParameterError, match="base names no config of stage lowres"):
        run_ablation("captions", tiny_config(base={"rl": "nano"}), training)
    astray = tiny_config(settings=tiny_config().settings | {"data": "nowhere"}, seeds=[5])
    with pytest.raises(LensCoreError, match="lens data shard"):
        run_ablation("captions", astray, training)
    assert load_ablation("lens-toy", {}).base == {"lowres": "lens-toy", "rl": "lens-rl"}
