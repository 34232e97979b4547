"""Training over buckets: from a pre-trained denoiser, resumed, on two processes, from presets."""

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lens_core import LensPipeline
from lens_core.data.buckets import NANO_HELD_OUT, TABLES
from lens_core.errors import CheckpointError, ComponentError, LensCoreError, ParameterError
from lens_core.previews import PreviewMap
from lens_core.training import run_stage
from lens_core.training.ablation.config import load_ablation
from lens_core.training.config import DenoiserConfig, load_config
from lens_core.training.distill.config import DistillConfig
from lens_core.training.mixed.config import MixedConfig
from lens_core.training.nft.config import RLConfig
from lens_core.training.objective import recipe_mean
from lens_core.transformer import LensTransformer2DModel
from tiny_components import tiny_pipeline
from tiny_data import MIXED, TABLE, write_data
from tiny_stages import DISTILL

TESTS = Path(__file__).parents[1]
Tensors = dict[str, torch.Tensor]
PREVIEWS = PreviewMap(torch.ones(16, 3), torch.arange(3.0))


def prepare(out: Path) -> Path:
    """A finished pre-training and shards, as a run expects them."""
    pipeline = tiny_pipeline()
    pipeline.preview_map = PREVIEWS
    pipeline.save_pretrained(out / "pretrain" / "pipeline")
    write_data(out / "data")
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = prepare(tmp_path_factory.mktemp("mixed"))
    held_out = {"validate_every": "2", "validation_data": str(out / "data")}
    held_out |= {"sample_every": "4", "sample_prompts": '["a cup", "two cups", "a red cup"]'}
    run_stage("mixed", "nano-mixed", out, {**MIXED, **held_out, "accumulate": "2"})
    return out


def test_samples_are_of_the_given_prompts(trained: Path) -> None:
    (sheet,) = (trained / "mixed" / "samples").iterdir()
    assert sheet.name == "000004.png"
    size = tiny_pipeline().defaults
    assert Image.open(sheet).size == (3 * (size.width + 4), size.height + 4)


def weights(out: Path) -> Tensors:
    return load_file(out / "mixed/pipeline/transformer/diffusion_pytorch_model.safetensors")


def state(out: Path) -> Tensors:
    folder = sorted((out / "mixed" / "checkpoints").glob("step-*"))[-1]
    found: Tensors = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_the_stage_goes_on_from_pretraining_and_leaves_a_pipeline(trained: Path) -> None:
    start = tiny_pipeline().transformer.state_dict()
    finished = weights(trained)
    assert finished.keys() == start.keys()
    moved = {n: (finished[n].float() - start[n]).abs().max().item() for n in start}
    assert moved["proj_out.weight"] > 0.002
    assert max(moved.values()) < 0.1
    pipeline = LensPipeline.from_pretrained(trained / "mixed" / "pipeline")
    assert pipeline.defaults.guidance_scale == 3.0
    assert torch.equal(pipeline.preview_map.bias, PREVIEWS.bias)
    image = pipeline(TABLE[1].name, height=64, width=64, num_inference_steps=1).images[0]
    assert image.size == (64, 64)


def test_the_log_has_the_loss_of_every_bucket(trained: Path) -> None:
    lines = (trained / "mixed" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    names = {bucket.name for bucket in TABLE}
    assert all(set(record["buckets"]) <= names for record in records)
    assert any(len(record["buckets"]) == 2 for record in records)
    assert all(record["loss"] > 0 and record["waited"] >= 0 for record in records)
    assert [bool(record.get("validation")) for record in records] == [False, True, False, True]


def test_a_killed_run_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    for name in ("pretrain", "data"):
        (tmp_path / name).symlink_to(trained / name)
    half = {**MIXED, "accumulate": "2"}
    run_stage("mixed", "nano-mixed", tmp_path, {**half, "steps": "2", "loader_threads": "3"})
    run_stage("mixed", "nano-mixed", tmp_path, {**half, "loader_threads": "0"})
    whole, resumed = state(trained), state(tmp_path)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_state_of_other_data_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "pretrain").symlink_to(trained / "pretrain")
    (tmp_path / "mixed").symlink_to(trained / "mixed")
    write_data(tmp_path / "data", 23)
    with pytest.raises(LensCoreError, match="other shards"):
        run_stage("mixed", "nano-mixed", tmp_path, {**MIXED, "accumulate": "2", "steps": "6"})


@pytest.mark.parametrize("field", ["number", "taken", "settings"])
def test_a_damaged_position_is_named(trained: Path, tmp_path: Path, field: str) -> None:
    for name in ("pretrain", "data"):
        (tmp_path / name).symlink_to(trained / name)
    shutil.copytree(trained / "mixed", tmp_path / "mixed")
    *_, file = sorted((tmp_path / "mixed" / "checkpoints").glob("step-*/state.json"))
    values = json.loads(file.read_text())
    values["processes"][0]["data"][field] = {"64x64": "many"} if field == "taken" else "many"
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"state\.json.*processes\.data.*remove"):
        run_stage("mixed", "nano-mixed", tmp_path, {**MIXED, "accumulate": "2", "steps": "6"})


def test_two_processes_with_different_buckets_train_as_one(trained: Path, tmp_path: Path) -> None:
    """Sharded over two processes, each with a bucket of its own, against two batches in one."""
    for name in ("pretrain", "data", "cache"):
        (tmp_path / name).symlink_to(trained / name)
    settings = [w for item in MIXED.items() for w in ("--set", "=".join(item))]
    command = [sys.executable, "-m", "lens_sdk", "train", "mixed", "--config", "nano-mixed"]
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environment = {**os.environ, **address, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path), *settings],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-2000:]
    losses = [
        [json.loads(line) for line in (out / "mixed" / "log.jsonl").read_text().splitlines()]
        for out in (trained, tmp_path)
    ]
    for one, two in zip(*losses, strict=True):
        assert one["buckets"].keys() == two["buckets"].keys()
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-4)
    together = weights(tmp_path)
    for name, tensor in weights(trained).items():
        torch.testing.assert_close(together[name], tensor, atol=4e-3, rtol=1e-2, msg=name)


def test_distillation_reads_the_same_shards(trained: Path, tmp_path: Path) -> None:
    overrides = {
        **DISTILL,
        "steps": "1",
        "start": str(trained / "mixed" / "pipeline"),
        "data": str(trained / "data"),
        "cache": str(trained / "cache"),
    }
    run_stage("distill", "nano", tmp_path, overrides)
    record = json.loads((tmp_path / "distill" / "log.jsonl").read_text().splitlines()[0])
    assert record["skipped"] == [0, 0, 0]
    assert record["student_norm"] > 0


def test_fresh_weights_need_only_the_frozen_parts(trained: Path, tmp_path: Path) -> None:
    parts = trained / "pretrain" / "pipeline"
    config = dict(tiny_pipeline().transformer.config)
    model = {k: v for k, v in config.items() if not k.startswith("_")} | {"num_layers": 1}
    overrides = {
        **MIXED,
        "steps": "2",
        "model": json.dumps(model),
        "start": str(parts),
        "data": str(trained / "data"),
        "cache_text": "false",
        "cache_latents": "false",
    }
    run_stage("lowres", "nano-lowres", tmp_path, overrides)
    pipeline = LensPipeline.from_pretrained(tmp_path / "lowres" / "pipeline")
    assert pipeline.transformer.config.num_layers == 1
    assert (pipeline.defaults.height, pipeline.defaults.width) == (64, 64)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"start": "nowhere"}, ComponentError, "nowhere holds no pipeline for mixed"),
        ({"data": "nowhere"}, LensCoreError, "lens data shard"),
        ({"global_batch": "8"}, ParameterError, "batches differ in size"),
        ({"align_block": "1"}, ParameterError, "which shards do not hold"),
        ({"batch_sizes": '{"48": 4}'}, ParameterError, r"no entry for the bases \[64\]"),
    ],
)
def test_wrong_settings_are_named(
    trained: Path, tmp_path: Path, overrides: dict[str, str], error: type[Exception], message: str
) -> None:
    for name in ("pretrain", "data", "cache"):
        (tmp_path / name).symlink_to(trained / name)
    with pytest.raises(error, match=message):
        run_stage("mixed", "nano-mixed", tmp_path, {**MIXED, **overrides})


def test_a_shape_that_is_none_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(trained / "data")
    fresh = {**MIXED, "start": str(trained / "pretrain" / "pipeline")}
    with pytest.raises(ParameterError, match="num_layer"):
        run_stage("lowres", "nano-lowres", tmp_path, {**fresh, "model": '{"num_layer": 3}'})
    # What is left open is the released model's, which reads deeper layers than these encoders have.
    with pytest.raises(ComponentError, match="has layers 0 to"):
        run_stage("lowres", "nano-lowres", tmp_path, {**fresh, "model": '{"num_layers": 3}'})


def test_a_stage_is_called_by_its_own_name(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(trained / "data")
    with pytest.raises(ComponentError, match="lowres needs it"):
        run_stage("lowres", "nano-lowres", tmp_path, {"start": "nowhere"})


def test_presets_hold_the_reports_values() -> None:
    """Against arXiv 2605.21573, section 3 and its appendix."""
    low = load_config(MixedConfig, "lens-512", "lowres")
    assert (low.steps, low.learning_rate, low.clip, low.betas) == (400_000, 2e-4, 1.0, (0.9, 0.999))
    assert low.batch_sizes == {512: 24}
    assert low.batch_sizes[512] * 128 == 3072
    assert (low.optimizer, low.decay_steps, low.precision) == ("adamw", 0, "bfloat16")
    assert recipe_mean(1024, low.timestep_line) == pytest.approx(1.06)
    with torch.device("meta"):
        model, toy = (
            LensTransformer2DModel(**load_config(MixedConfig, name, "lowres").model)
            for name in ("lens-512", "lens-toy")
        )
    assert sum(p.numel() for p in model.parameters()) == 4_104_225_152
    assert sum(p.numel() for p in toy.parameters()) == pytest.approx(1.2e9, rel=0.03)
    mixed = load_config(MixedConfig, "lens-mixed", "mixed")
    assert (mixed.steps, mixed.learning_rate) == (400_000, 1e-4)
    assert mixed.batch_sizes == {512: 24, 768: 10, 1024: 6}
    assert [recipe_mean(n, mixed.timestep_line) for n in (256, 4096)] == pytest.approx([1.0, 1.3])
    rl = load_config(RLConfig, "lens-rl", "rl")
    assert (rl.steps, rl.groups, rl.images_per_prompt) == (180, 48, 24)
    assert (rl.rank, rl.alpha, rl.learning_rate, rl.weight_decay) == (64, 128, 3e-4, 1e-4)
    assert (rl.beta, rl.kl_weight, rl.old_decay) == (1.0, 1e-4, "linear_to_0_5")
    assert set(rl.sizes) == {bucket.size for bucket in TABLES["lens-1024"]}
    turbo = load_config(DistillConfig, "lens-turbo", "distill")
    assert (turbo.student_steps, turbo.steps, turbo.critic_updates) == (4, 1000, 4)
    assert (turbo.matching_weight, turbo.adversarial_weight) == (0.1, 0.001)
    assert (turbo.learning_rate, turbo.fake_learning_rate) == (5e-7, 5e-7)
    assert (turbo.discriminator_learning_rate, turbo.guidance_scale) == (1e-4, 5.0)
    assert (turbo.alignment, turbo.r1_weight, turbo.r1_noise) == (0.03, 1.0, 0.1)
    assert turbo.batch_size * turbo.batches_per_update == 8 * 4


def test_nano_trains_on_nothing_that_is_held_out() -> None:
    config = load_config(MixedConfig, "nano-mixed", "mixed")
    trained_on = TABLES["nano"]
    assert {bucket.base for bucket in trained_on} == set(config.batch_sizes)
    largest = max(bucket.height * bucket.width for bucket in trained_on)
    ratios = {round(max(b.size) / min(b.size), 2) for b in trained_on}
    for height, width in NANO_HELD_OUT:
        ratio = round(max(height, width) / min(height, width), 2)
        assert height * width > 1.2 * largest or all(abs(ratio - seen) > 0.09 for seen in ratios)


def test_every_preset_is_read_by_its_stage() -> None:
    """Whatever presets there are: their settings validate."""
    from lens_core.training.stages import STAGES, stage_config

    folder = resources.files("lens_core.training") / "presets"
    found = [(p.name, f.name.removesuffix(".json")) for p in folder.iterdir() for f in p.iterdir()]
    assert len(found) >= 10
    for preset, stage in found:
        if stage == "ablation":
            assert load_ablation(preset, {}).seeds == (0, 1, 2)
            continue
        assert stage in STAGES
        config = load_config(stage_config(stage), preset, stage)
        if isinstance(config, DenoiserConfig) and config.device == "cuda":
            assert config.precision == "bfloat16"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
