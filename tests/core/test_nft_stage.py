"""DiffusionNFT as a stage: what it logs, exports and validates, and that the reward rises."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_core import LensPipeline, ParameterError
from lens_core.errors import ComponentError
from lens_core.training import run_stage
from lens_core.training.config import load_config
from lens_core.training.nft.config import RLConfig
from lens_core.training.rewards import (
    RewardError,
)
from tiny_components import tiny_pipeline
from tiny_stages import RL as TINY


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a stop."""
    out = tmp_path_factory.mktemp("rl")
    return run_stage("rl", "nano", out, {**TINY, "start": str(start)})


def _records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_step_logs_its_diagnostics(tuned: Path) -> None:
    records = _records(tuned)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    named = {"reward", "reward_std", "zero_std_ratio", "target_distance", "old_deviate", "kl"}
    named |= {"x0_norm", "grad_norm", "old_decay", "missing", "skipped", "parts"}
    assert all(named <= record.keys() for record in records)
    assert [record["old_decay"] for record in records] == [0.001, 0.002, 0.003, 0.004]
    assert records[0]["kl"] == 0
    assert float(str(records[3]["kl"])) > 0
    assert (tuned / "samples" / "000004.png").is_file()


def test_export_holds_the_averaged_adapter(tuned: Path, start: Path) -> None:
    """Merged weights and the LoRA file say the same, and not what the start says."""
    arguments = torch.randn(1, 12, 16), None, None, torch.tensor([0.7]), [(1, 4, 3)], False
    first = LensPipeline.from_pretrained(start).transformer
    merged = LensPipeline.from_pretrained(tuned / "pipeline").transformer
    before = first(*arguments)[0]
    first.load_lora_adapter(
        tuned / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors"
    )
    with_adapter = first(*arguments)[0]
    error = (merged(*arguments)[0] - with_adapter).abs().max()
    assert error < 0.1 * (with_adapter - before).abs().max()


def test_reward_rises(start: Path, tmp_path: Path) -> None:
    """Asked for bright pictures, the tiny model draws brighter ones."""
    overrides = {**TINY, "start": str(start), "steps": "10", "learning_rate": "0.02"}
    overrides |= {"groups": "2", "images_per_prompt": "64", "batch_size": "128"}
    overrides |= {"sizes": "[[32, 32]]", "sample_every": "0"}
    records = _records(run_stage("rl", "nano", tmp_path, overrides))
    rewards = [float(str(record["reward"])) for record in records]
    error = float(str(records[0]["reward_std"])) * math.sqrt(2 / (3 * 128))
    assert np.mean(rewards[-3:]) - np.mean(rewards[:3]) > 4 * error


def test_validation_is_scored_at_every_guidance(start: Path, tmp_path: Path) -> None:
    overrides = {**TINY, "start": str(start), "steps": "1", "evaluate_every": "1"}
    overrides |= {"evaluate_prompts": "3", "evaluate_guidance": "[1.0, 5.0]"}
    record = _records(run_stage("rl", "nano", tmp_path, overrides))[0]
    for name in ("start", "validation"):
        scores = record[name]
        assert isinstance(scores, dict)
        assert scores.keys() == {"guidance_1", "guidance_5"}
        assert scores["guidance_1"]["scored"] == 3


def test_prompts_without_reward_are_counted_and_not_trained_on(start: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a cup"}\n{"prompt": "a secret"}\n{"prompt": "a star"}\n')
    overrides = {**TINY, "start": str(start), "steps": "1", "prompts": str(prompts)}
    overrides |= {"groups": "3", "batch_size": "4", "sample_every": "0"}
    some = {**overrides, "reward_options": '{"unscored": "secret"}'}
    records = _records(run_stage("rl", "nano", tmp_path / "some", some))
    assert records[0]["missing"] == 4
    assert math.isfinite(float(str(records[0]["grad_norm"])))
    away = {**overrides, "reward": "tiny_rewards:broken"}
    with pytest.raises(RewardError, match="judge is away"):
        run_stage("rl", "nano", tmp_path / "away", away)


def test_bad_settings_are_named(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="multiple of batch_size 7"):
        run_stage("rl", "nano", tmp_path, {**TINY, "batch_size": "7"})
    with pytest.raises(ComponentError, match="'lens' is a published model, and rl starts from"):
        run_stage("rl", "nano", tmp_path, {"start": "lens"})
    for name in ("sizes", "evaluate_guidance"):
        with pytest.raises(ParameterError, match=name):
            run_stage("rl", "nano", tmp_path, {**TINY, name: "[]"})
    with pytest.raises(ComponentError, match="no pipeline for rl to start from"):
        run_stage("rl", "nano", tmp_path, TINY)


def test_a_size_that_cannot_be_is_refused_before_chance_takes_it(
    start: Path, tmp_path: Path
) -> None:
    """Batches take their sizes by chance, so that a run might go on for long before it failed."""
    settings = {**TINY, "start": str(start), "sizes": "[[32, 32], [32, 40]]"}
    with pytest.raises(ComponentError, match=r"size \(32, 40\)"):
        run_stage("rl", "nano", tmp_path, settings)
    assert not (tmp_path / "rl").exists()


def test_presets_hold_the_recipe() -> None:
    config = load_config(RLConfig, "lens-rl", "rl")
    assert (config.steps, config.groups, config.images_per_prompt) == (180, 48, 24)
    assert (config.rank, config.alpha, config.learning_rate) == (64, 128, 3e-4)
    assert (config.beta, config.kl_weight, config.trained_timesteps) == (1.0, 1e-4, 9)
    assert len(config.sizes) == 9
