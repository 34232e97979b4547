"""The distillation as a stage: what it logs, keeps, exports and validates."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lens_core import LensPipeline
from lens_core.errors import ComponentError
from lens_core.previews import PreviewMap
from lens_core.training import run_stage
from lens_core.training.config import load_config
from lens_core.training.distill.config import DistillConfig
from lens_core.training.distill.models import Models
from lens_core.training.distill.pairs import ShardPairs
from lens_core.training.distill.stage import Stage
from lens_core.training.workers import Workers
from tiny_components import tiny_pipeline
from tiny_stages import DISTILL as TINY
from tiny_stages import write_shard

PREVIEWS = PreviewMap(torch.ones(16, 3), torch.arange(3.0))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder with a tiny teacher and a shard of random pairs."""
    out = tmp_path_factory.mktemp("distill")
    teacher = tiny_pipeline()
    teacher.preview_map = PREVIEWS
    teacher.save_pretrained(out / "rl" / "pipeline")
    write_shard(out / "shards")
    return out


@pytest.fixture(scope="module")
def distilled(training: Path) -> Path:
    """Four steps without a stop."""
    return run_stage("distill", "nano", training, TINY)


def test_every_step_logs_its_diagnostics(distilled: Path) -> None:
    lines = (distilled / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    named = {"matching_norm", "augmentation_norm", "score_cosine", "score_ratio", "x0_std"}
    named |= {"x0_mean", "fake_loss", "discriminator_loss", "r1", "generator_loss"}
    named |= {"student_norm", "fake_norm", "discriminator_norm", "skipped"}
    assert all(named <= record.keys() for record in records)
    assert len({record["student_step"] for record in records}) > 1


def test_critics_are_updated_four_times_as_often(distilled: Path) -> None:
    state = _state(distilled)
    assert state["student.counts"].tolist() == [4, 0]
    assert state["fake.counts"].tolist() == [16, 0]
    assert state["discriminator.counts"].tolist() == [16, 0]


def _state(folder: Path) -> dict[str, Tensor]:
    """The last state of a run of one process."""
    (file,) = max((folder / "checkpoints").glob("step-*")).glob("*.safetensors")
    return load_file(file)


def test_student_is_exported_for_few_steps_without_guidance(
    distilled: Path, training: Path
) -> None:
    pipeline = LensPipeline.from_pretrained(distilled / "pipeline")
    assert (pipeline.defaults.num_inference_steps, pipeline.defaults.guidance_scale) == (4, 1.0)
    assert pipeline.defaults.sigmas == (1.0, 0.6, 0.3, 0.1)
    assert torch.equal(pipeline.preview_map.bias, PREVIEWS.bias)
    average = _state(distilled)["average.proj_out.weight"]
    found = pipeline.transformer.proj_out.weight
    torch.testing.assert_close(found, average, atol=1e-2, rtol=1e-2)
    teacher = LensPipeline.from_pretrained(training / "rl" / "pipeline").transformer
    assert not torch.equal(found, teacher.proj_out.weight)


def test_every_update_is_made_on_the_levels_that_are_exported(training: Path) -> None:
    values = {name: json.loads(text) for name, text in TINY.items()} | {"score_shift": 2.0}
    config = load_config(DistillConfig, "nano", "distill", values)
    start = training / "rl" / "pipeline"
    stage = Stage.create(config, start, training / "shards", Workers())
    for draw in stage.updater._draws(0, 0):
        assert draw.schedule.levels == config.student_sigmas
        assert draw.schedule.score_shift == 2.0
    stage.export(training / "exported")
    exported = LensPipeline.from_pretrained(training / "exported")
    assert exported.defaults.sigmas == config.student_sigmas


def test_fake_score_is_drawn_to_the_student(training: Path) -> None:
    start = training / "rl" / "pipeline"
    config = load_config(
        DistillConfig, "nano", "distill", {name: json.loads(text) for name, text in TINY.items()}
    )
    models = Models.create(config, start, LensPipeline.from_pretrained(start), Workers())
    with torch.no_grad():
        models.roles["student"].parameters["proj_out.weight"].add_(1.0)
    before = models.fake.proj_out.weight.detach().clone()
    models.roles["student"].counts[0] = 1000
    models.follow()
    moved = models.fake.proj_out.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.03))
    averaged = models.average["proj_out.weight"] - before
    torch.testing.assert_close(averaged, torch.full_like(moved, 0.02))


def test_validation_shows_the_naive_teacher_beside_the_student(
    training: Path, tmp_path: Path
) -> None:
    for part in ("rl", "shards"):
        (tmp_path / part).symlink_to(training / part)
    overrides = {**TINY, "steps": "1", "evaluate_every": "1", "evaluate_prompts": "2"}
    overrides |= {"adversarial_weight": "0", "evaluate_sizes": "[[32, 32]]", "brief_share": "1"}
    # Scores are told whatever the steps between two lines of the log.
    folder = run_stage("distill", "nano", tmp_path, overrides | {"log_every": "7"})
    record = json.loads((folder / "log.jsonl").read_text())
    for name in ("teacher", "teacher_unguided", "teacher_naive", "validation"):
        assert record[name]["scored"] == 2
    assert "discriminator_loss" not in record


def test_pairs_come_by_number_and_once_per_pass(training: Path) -> None:
    source = ShardPairs(training / "shards", 1, 2, 0.5, seed=0)
    first = [source.batch(number) for number in range(10)]
    rows = torch.stack([pairs.latents[:, 0, 0] for pairs in first]).flatten()
    assert len(rows.unique()) == 20
    again = source.batch(7)
    assert torch.equal(again.latents, first[7].latents)
    second = torch.stack([source.batch(10 + n).latents[:, 0, 0] for n in range(10)]).flatten()
    assert torch.equal(second.sort().values, rows.sort().values)
    assert not torch.equal(second, rows)
    with pytest.raises(ComponentError, match="lower batch_size"):
        ShardPairs(training / "shards", 1, 50, 0.5, seed=0)
    with pytest.raises(ComponentError, match="shard-0001"):
        ShardPairs(training / "shards", 2, 2, 0.5, seed=0)


def test_preset_holds_the_recipe() -> None:
    config = load_config(DistillConfig, "lens-turbo", "distill")
    assert (config.guidance_scale, config.critic_updates, config.alignment) == (5.0, 4, 0.03)
    assert (config.matching_weight, config.adversarial_weight) == (0.1, 0.001)
    assert (config.learning_rate, config.fake_learning_rate) == (5e-7, 5e-7)
    assert (config.batch_size * config.batches_per_update, config.student_steps) == (32, 4)
