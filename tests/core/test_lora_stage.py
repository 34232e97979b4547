"""Fine-tuning on four drawn scenes: the loss falls, and pictures follow the saved LoRA."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lens_core import LensPipeline
from lens_core.data.reading import ShardFolder
from lens_core.errors import CheckpointError, ComponentError, LensCoreError, ParameterError
from lens_core.nano import dense_caption, render, sample_scene
from lens_core.training import run_stage
from lens_core.training.config import load_config
from lens_core.training.lora.config import LoraTrainingConfig
from tiny_components import tiny_pipeline

NANO = Path(str(__import__("lens_core").__path__[0])) / "weights" / "lens-nano"
STEPS = 55
STRONG = {
    "learning_rate": "0.005",
    "alpha": "32",
    "modules": '["attention", "mlp"]',
    "caption_dropout": "0",
}
BEGUN = {"rank": "2", "sample_every": "0", "save_every": "1"}
CAPTIONS = [f"zxq picture number {n}" for n in ("one", "two", "three", "four")]


def overrides(images: Path, **changes: str) -> dict[str, str]:
    return {"start": "lens-nano", "images": str(images), "steps": str(STEPS)} | changes


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes under captions that say nothing of them."""
    folder = tmp_path_factory.mktemp("images")
    for index, caption in enumerate(CAPTIONS):
        rng = np.random.default_rng((77, index))
        render(sample_scene(rng, "single_object", (128, 128))).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora")
    run_stage("lora", "nano", out, overrides(images, **STRONG))
    return out / "lora"


def latents(pipeline: LensPipeline) -> torch.Tensor:
    """Of the four captions without guidance, all from noise of their own."""
    found = pipeline(
        CAPTIONS,
        generator=[torch.Generator().manual_seed(i) for i in range(4)],
        num_inference_steps=6,
        guidance_scale=1.0,
        output_type="pt",
        return_dict=False,
    )[0]
    return torch.as_tensor(found)


def test_the_loss_falls(trained: Path) -> None:
    lines = (trained / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-3:]) < 0.65 * np.mean(losses[:2])


def test_the_saved_lora_draws_the_pictures_it_learnt(trained: Path, images: Path) -> None:
    truth = np.stack([np.array(Image.open(images / f"{i}.png")) for i in range(4)])
    target = torch.from_numpy(truth).permute(0, 3, 1, 2) / 255
    pipeline = LensPipeline.from_pretrained(NANO, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    before = (latents(pipeline) - target).square().mean()
    pipeline.load_lora_weights(trained / "weights", adapter_name="own")
    after = (latents(pipeline) - target).square().mean()
    assert after < 0.75 * before
    pipeline.set_adapters("own", 0.0)
    torch.testing.assert_close((latents(pipeline) - target).square().mean(), before)


def test_it_is_saved_in_pefts_form_and_leaves_modulation_alone(trained: Path) -> None:
    config = json.loads((trained / "weights" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 16, 32.0)
    assert config["target_modules"] == sorted(config["target_modules"])
    names = load_file(trained / "weights" / "adapter_model.safetensors").keys()
    assert len(names) == 6 * (4 + 6) * 2
    assert not [name for name in names if "_mod" in name.replace("base_model", "")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is quicker than the packaged one, where what it draws does not matter."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def begun(images: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, to go on with."""
    out = tmp_path_factory.mktemp("begun")
    run_stage("lora", "nano", out, {**BEGUN, **overrides(images, start=tiny, steps="1")})
    return out


def test_a_killed_run_goes_on_with_the_same_bits(images: Path, tiny: str, tmp_path: Path) -> None:
    few = overrides(images, start=tiny, steps="4", save_every="2", rank="2")
    few["activation_checkpointing"] = "full"
    run_stage("lora", "nano", tmp_path / "whole", few)
    run_stage("lora", "nano", tmp_path / "killed", {**few, "steps": "2"})
    run_stage("lora", "nano", tmp_path / "killed", few)
    whole, killed = (
        load_file(tmp_path / name / "lora" / "weights" / "adapter_model.safetensors")
        for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert len(whole) == 2 * 4 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alpha": "8"}, "with alpha 16.0, and this run has 8.0"), ({}, "with start weights")],
)
def test_what_gives_adapters_their_meaning_cannot_change(
    begun: Path, images: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    """`alpha`, and the weights that the adapters lie beside, wherever these are now."""
    other = tiny_pipeline()
    with torch.no_grad():
        other.transformer.img_in.weight.mul_(1 if change else 2)
    other.save_pretrained(tmp_path / "start")
    start = {"start": str(tmp_path / "start"), "steps": "2"}
    few = overrides(images, **BEGUN, **start, **change)
    with pytest.raises(CheckpointError, match=message):
        run_stage("lora", "nano", begun, few)


def test_a_run_whose_pictures_are_cached_does_without_the_encoders(
    begun: Path, images: Path, tiny: str, tmp_path: Path
) -> None:
    """They are replaced by what cannot be read, under the same size and time."""
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(tiny, start)
    shutil.copytree(begun, run)
    held = {"validate_every": "1", "validation_images": str(images)}
    few = {**BEGUN, **overrides(images, start=str(start), steps="2"), **held}
    run_stage("lora", "nano", run, few)
    weights = start / "text_encoder" / "model.safetensors"
    status = weights.stat()
    weights.write_bytes(bytes(status.st_size))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    run_stage("lora", "nano", run, {**few, "steps": "3"})
    next((run / "lora" / "cache" / "latents").rglob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="text_encoder"):
        run_stage("lora", "nano", run, {**few, "steps": "4"})


@pytest.mark.parametrize("memory", ["resident", "4gb"])
def test_samples_are_what_the_saved_lora_draws(
    images: Path, tiny: str, tmp_path: Path, memory: str
) -> None:
    few = overrides(images, start=tiny, steps="2", rank="2", memory=memory)
    run_stage("lora", "nano", tmp_path / "blind", {**few, "sample_every": "0"})
    shown = {**few, "sample_every": "1", "sample_prompts": '["a cup", "two cups"]'}
    run_stage("lora", "nano", tmp_path / "seen", {**shown, "sample_size": "[64, 48]"})
    blind, seen = (
        load_file(tmp_path / name / "lora" / "weights" / "adapter_model.safetensors")
        for name in ("blind", "seen")
    )
    assert all(torch.equal(blind[name], seen[name]) for name in blind)
    samples = sorted((tmp_path / "seen" / "lora" / "samples").iterdir())
    assert [path.name for path in samples] == ["000001.png", "000002.png"]
    sheet = np.asarray(Image.open(samples[-1])).astype(int)
    pipeline = LensPipeline.from_pretrained(tiny, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path / "seen" / "lora" / "weights")
    for seed, prompt in enumerate(["a cup", "two cups"]):
        noise = torch.Generator().manual_seed(seed)
        drawn = pipeline(prompt, generator=noise, height=64, width=48).images[0]
        shown_there = sheet[:64, seed * 52 : seed * 52 + 48]
        assert np.abs(np.asarray(drawn).astype(int) - shown_there).max() <= 1


def test_every_weight_may_be_trained(images: Path, tiny: str, tmp_path: Path) -> None:
    settings = overrides(images, start=tiny, steps="1", method="full", sample_every="1")
    run_stage("lora", "nano", tmp_path, settings)
    # Four pictures beside each other, after the four captions.
    width, height = Image.open(tmp_path / "lora" / "samples" / "000001.png").size
    assert width > 3 * height
    pipeline = LensPipeline.from_pretrained(tmp_path / "lora" / "weights", dtype=torch.float32)
    start = LensPipeline.from_pretrained(tiny, dtype=torch.float32)
    moved = {
        name: not torch.equal(tensor, start.transformer.state_dict()[name])
        for name, tensor in pipeline.transformer.state_dict().items()
    }
    assert moved["transformer_blocks.0.attn.img_qkv.weight"]
    assert moved["transformer_blocks.0.img_mod.1.weight"]
    assert pipeline.defaults == start.defaults


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["img_qkv", "txt_qkv", "to_out.0", "to_add_out"]),
        ({"modules": ["mlp"]}, ["img_mlp.w1", "img_mlp.w2", "img_mlp.w3"]),
        ({"modules": ["modulation"]}, ["img_mod.1", "txt_mod.1"]),
        ({"target_modules": ["to_out.0"]}, ["to_out.0"]),
    ],
)
def test_layers_are_chosen_by_groups_or_names(changes: dict[str, object], expected: object) -> None:
    values = {"start": "s", "images": "i"} | changes
    config = load_config(LoraTrainingConfig, "nano", "lora", values)
    assert list(config.targets())[: len(list(expected))] == expected  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"start": "nowhere"}, ComponentError, "holds no pipeline for lora"),
        ({"images": "nowhere"}, ParameterError, "is not a folder of pictures"),
        ({"buckets": "lens-512"}, LensCoreError, "unfit image \\(4\\)"),
        ({"target_modules": '["to_q"]'}, ParameterError, "to_q"),
        ({"sample_size": "[64, 50]"}, ParameterError, "two multiples of 16"),
        ({"batch_sizes": '{"128": 0}'}, ParameterError, "batch_sizes"),
    ],
)
def test_what_does_not_fit_is_named(
    images: Path,
    tiny: str,
    tmp_path: Path,
    settings: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run_stage("lora", "nano", tmp_path, {**overrides(images), "start": tiny, **settings})


def test_pictures_may_change_until_training_has_begun(
    images: Path, tiny: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    few = {**overrides(own, start=tiny, steps="1"), "batch_sizes": '{"96": 2}'}
    with pytest.raises(ParameterError, match="batch_sizes has none"):
        run_stage("lora", "nano", tmp_path, few)
    few["batch_sizes"] = '{"128": 2}'
    (own / "3.png").unlink()
    inside = {**few, "sample_every": "1", "sample_prompts": '["a cup"]'}
    run_stage("lora", "nano", own / "run", inside)
    run_stage("lora", "nano", own / "run", inside)  # Its own files are no change of the user's.
    shutil.rmtree(own / "run")
    run_stage("lora", "nano", tmp_path, few)
    assert ShardFolder.open(tmp_path / "lora" / "data").manifest.samples == 3
    with pytest.raises(LensCoreError, match="other crop, and training has begun"):
        run_stage("lora", "nano", tmp_path, {**few, "crop": "top"})
    (own / "2.txt").write_text("something else")
    with pytest.raises(LensCoreError, match="other files, and training has begun"):
        run_stage("lora", "nano", tmp_path, few)


def test_other_pictures_give_a_validation_loss(images: Path, tiny: str, tmp_path: Path) -> None:
    held = {"validate_every": "1", "validation_images": str(images), "validation_pictures": "3"}
    run_stage("lora", "nano", tmp_path, overrides(images, start=tiny, steps="2", **held))
    lines = (tmp_path / "lora" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["validation"]["loss"] for line in lines]
    assert len(losses) == 2
    assert 0 < losses[1] != losses[0] > 0


def test_another_folder_of_pictures_needs_another_run(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    scene = sample_scene(rng, size=(128, 128))
    render(scene).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(dense_caption(scene, rng))
    with pytest.raises(LensCoreError, match="choose another --out"):
        run_stage("lora", "nano", trained.parent, overrides(tmp_path))
