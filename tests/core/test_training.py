import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lens_core import LensPipeline
from lens_core.errors import CheckpointError, ComponentError, ParameterError
from lens_core.training import run_stage
from lens_core.training.batches import SceneBatches
from lens_core.training.config import AutoencoderConfig, PretrainConfig, load_config
from lens_core.training.objective import noised, recipe_mean, sample_timesteps
from lens_core.training.optim import rate_factor
from lens_core.training.state import load_state, save_state
from lens_core.training.workers import Workers

TINY = {
    "autoencoder": {
        "steps": "3",
        "full_steps": "1",
        "batch_size": "2",
        "pool": "10",
        "save_every": "1",
        "model": json.dumps(
            {
                "block_out_channels": [8, 8, 8, 8],
                "layers_per_block": 1,
                "latent_channels": 4,
                "norm_num_groups": 1,
            }
        ),
    },
    "language": {
        "steps": "2",
        "batch_size": "2",
        "vocabulary": "300",
        "vocabulary_scenes": "50",
        "save_every": "1",
    },
    "pretrain": {
        "steps": "4",
        "batch_size": "4",
        "shards": "1",
        "shard_scenes": "40",
        "log_every": "1",
        "save_every": "2",
        "sample_every": "4",
        "validate_every": "4",
        "validation_scenes": "10",
        "warmup_steps": "1",
        "decay_steps": "0",
        "compile": "false",
        "threads": "1",
        "model": json.dumps(
            {
                "in_channels": 16,
                "out_channels": 4,
                "num_layers": 2,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "inner_dim": 32,
                "enc_hidden_dim": 128,
                "axes_dims_rope": [4, 6, 6],
                "selected_layer_index": [1, 2, 3, 4],
            }
        ),
        "align_block": "0",
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every nano stage, run for a few steps at toy size."""
    out = tmp_path_factory.mktemp("training")
    for stage in ("autoencoder", "language", "shards", "pretrain"):
        run_stage(stage, "nano", out, TINY["pretrain" if stage == "shards" else stage])
    return out


def test_stages_leave_a_checkpoint_that_draws(trained: Path) -> None:
    pipeline = LensPipeline.from_pretrained(trained / "pretrain" / "pipeline")
    image = pipeline("a red apple", num_inference_steps=2).images[0]
    assert image.size == (128, 128)
    assert (trained / "pretrain" / "samples" / "000004.png").is_file()


def test_log_holds_the_loss_of_every_step_by_timestep(trained: Path) -> None:
    lines = (trained / "pretrain" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(len(record["bins"]) == 4 and record["loss"] > 0 for record in records)
    assert ["validation" in record for record in records] == [False, False, False, True]
    assert records[-1]["validation"]["loss"] > 0


def test_killed_run_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    """A run stopped at step 2 and started again equals one that was never stopped."""
    for part in ("components", "shards"):
        (tmp_path / part).symlink_to(trained / part)
    half = {**TINY["pretrain"], "steps": "2"}
    run_stage("pretrain", "nano", tmp_path, half)
    run_stage("pretrain", "nano", tmp_path, TINY["pretrain"])
    whole, resumed = _state(trained), _state(tmp_path)
    assert whole.keys() == resumed.keys()
    differing = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    assert differing == []


@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        ("autoencoder", "vae/diffusion_pytorch_model.safetensors"),
        ("language", "text_encoder/model.safetensors"),
    ],
)
def test_a_component_goes_on_where_it_was_saved(tmp_path: Path, stage: str, weights: str) -> None:
    """From the state after step 2 of 3 it ends with the bits of the run that went on at once."""
    settings = {**TINY[stage], "steps": "3", "save_every": "2"}
    run_stage(stage, "nano", tmp_path / "whole", settings)
    shutil.copytree(tmp_path / "whole" / stage / "state", tmp_path / "resumed" / stage / "state")
    torch.rand(7)
    run_stage(stage, "nano", tmp_path / "resumed", settings)
    whole, resumed = (
        load_file(tmp_path / name / "components" / weights) for name in ("whole", "resumed")
    )
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_state_without_generators_goes_on(tmp_path: Path) -> None:
    """States of before they were saved are read as they are."""
    settings = {**TINY["language"], "save_every": "1"}
    run_stage("language", "nano", tmp_path, settings)
    values = tmp_path / "language" / "state" / "state.json"
    values.write_text('{"step": 2}')
    run_stage("language", "nano", tmp_path, {**settings, "steps": "3"})
    assert json.loads(values.read_text())["step"] == 3


@pytest.mark.parametrize("damage", ["cut", "no object", "step", "rng", "another model"])
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    settings = {**TINY["autoencoder"], "steps": "1"}
    run_stage("autoencoder", "nano", tmp_path, settings)
    state = tmp_path / "autoencoder" / "state"
    if damage == "cut":
        path = state / "state.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "no object":
        (state / "state.json").write_text("[]")
    elif damage in ("step", "rng"):
        values = json.loads((state / "state.json").read_text()) | {damage: {"torch": "AAAA"}}
        (state / "state.json").write_text(json.dumps(values))
    else:
        model = json.loads(settings["model"]) | {"latent_channels": 8}
        settings |= {"model": json.dumps(model), "steps": "2"}
    named = rf"state\.json.*{damage}" if damage in ("step", "rng") else "state"
    with pytest.raises(CheckpointError, match=named):
        run_stage("autoencoder", "nano", tmp_path, settings)


def test_stage_without_its_predecessors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="run the stages before pretrain"):
        run_stage("pretrain", "nano", tmp_path)


@pytest.mark.parametrize(
    ("stage", "config", "overrides", "message"),
    [
        ("sleep", "nano", {}, "no stage 'sleep'"),
        ("autoencoder", "giant", {}, "'giant' is neither a preset"),
        ("autoencoder", "nano", {"stpes": "3"}, "stpes"),
        ("autoencoder", "nano", {"steps": "-3"}, "steps"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, stage: str, config: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        run_stage(stage, config, tmp_path, overrides)


@pytest.mark.parametrize("text", [b"[1]", b'"\xff"', b"[" * 100_000, b"{"])
def test_files_that_are_no_settings_are_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text)
    with pytest.raises(ParameterError, match=r"mine\.json"):
        load_config(PretrainConfig, str(path), "pretrain")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_every", 0),  # These would divide by zero after the first step,
        ("log_every", 0),
        ("seed", -1),  # these fail where the first chance is drawn,
        ("seed", 2**63),
        ("timestep_line", [[64, 1.0], [64, 1.2]]),
        ("clip", 0),  # and these train nothing, or something else.
        ("ema_decay", 1.0),
        ("caption_dropout", 1.5),
        ("betas", [0.9, 1.0]),
        ("weight_decay", -0.1),
        ("learning_rate", math.inf),
        ("shard_scenes", 4),  # A shard has scenes of every size.
        ("validation_scenes", 4),
        ("brief_share", 1.1),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_done(
    name: str, value: object
) -> None:
    with pytest.raises(ParameterError, match=name):
        load_config(PretrainConfig, "nano", "pretrain", {name: value})


@pytest.mark.parametrize(("name", "value"), [("pool", 4), ("crop", 0), ("crop", 97)])
def test_pictures_that_cannot_be_cut_are_refused(name: str, value: int) -> None:
    with pytest.raises(ParameterError, match=name):
        load_config(AutoencoderConfig, "nano", "autoencoder", {name: value})


def test_batches_may_all_go_without_text(trained: Path) -> None:
    settings = {**_values(TINY["pretrain"]), "caption_dropout": 1.0}
    config = load_config(PretrainConfig, "nano", "pretrain", settings)
    batch = next(SceneBatches(config, trained / "shards", Workers()))
    assert (len(batch.latents), len(batch.mask)) == (4, 0)
    assert batch.features.shape == (4, 0, 32, 128)


def test_batches_larger_than_a_shard_are_refused(tmp_path: Path) -> None:
    """Its scenes of one size make none: the stream would look for the first one for ever."""
    settings = {**_values(TINY["pretrain"]), "batch_size": 9}
    config = load_config(PretrainConfig, "nano", "pretrain", settings)
    with pytest.raises(ParameterError, match="batch_size 9"):
        SceneBatches(config, tmp_path, Workers())


def test_timesteps_are_stratified_logit_normal() -> None:
    timesteps = sample_timesteps(4096, 1.0, torch.Generator().manual_seed(0))
    logits = timesteps.logit().sort().values
    assert logits.mean() == pytest.approx(1.0, abs=0.01)
    assert logits.std() == pytest.approx(1.0, abs=0.02)
    quantiles = 0.5 * (1 + torch.erf((logits - 1.0) / math.sqrt(2)))
    places = quantiles * 4096 - torch.arange(4096)
    assert places.min() > -0.05
    assert places.max() < 1.05


def test_recipe_mean_follows_the_line() -> None:
    assert recipe_mean(256) == 1.0
    assert recipe_mean(4096) == pytest.approx(1.3)
    assert recipe_mean(1024) == pytest.approx(1.06)


def test_velocity_leads_from_data_to_noise() -> None:
    latents = torch.randn(3, 4, 2)
    generator = torch.Generator().manual_seed(1)
    noisy, velocity = noised(latents, torch.tensor([0.0, 0.5, 1.0]), generator)
    torch.testing.assert_close(noisy[0], latents[0])
    torch.testing.assert_close(noisy[1] - 0.5 * velocity[1], latents[1])
    torch.testing.assert_close(noisy[2], latents[2] + velocity[2])


def test_learning_rate_warms_up_and_decays() -> None:
    config = load_config(PretrainConfig, "nano", "pretrain")
    config = config.model_copy(update={"steps": 100, "warmup_steps": 10, "decay_steps": 20})
    factors = [rate_factor(step, config) for step in (0, 9, 50, 90, 99)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.05])


def test_state_survives_a_kill_between_its_two_renames(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save_state(folder, {"x": torch.ones(2)}, {"step": 1})
    folder.rename(tmp_path / "state.old")
    saved = load_state(folder)
    assert saved is not None
    assert saved[1].step == 1


def test_a_state_that_was_read_needs_its_file_no_more(tmp_path: Path) -> None:
    """While it is mapped, Windows lets nobody replace it, and the next state could not be saved."""
    folder = tmp_path / "state"
    save_state(folder, {"x": torch.ones(100_000)}, {"step": 1})
    saved = load_state(folder)
    file = folder / "state.safetensors"
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert saved is not None
    assert torch.equal(saved[0]["x"], torch.ones(100_000))


def test_workers_draw_different_batches_that_together_are_the_stream(trained: Path) -> None:
    config = load_config(PretrainConfig, "nano", "pretrain", _values(TINY["pretrain"]))
    stream = SceneBatches(config, trained / "shards", Workers())
    expected = [next(stream).latents for _ in range(4)]
    for rank in (0, 1):
        share = SceneBatches(config, trained / "shards", Workers(rank, 2))
        assert torch.equal(next(share).latents, expected[rank])
        share.restore([{}], 2)
        assert torch.equal(next(share).latents, expected[2 + rank])


def _state(out: Path) -> dict[str, torch.Tensor]:
    """The last training state, from however many files."""
    folder = max((out / "pretrain" / "checkpoints").glob("step-*"))
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _values(overrides: dict[str, str]) -> dict[str, object]:
    return {name: json.loads(text) for name, text in overrides.items()}
