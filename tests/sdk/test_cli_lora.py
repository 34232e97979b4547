"""LoRAs from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lens_reasoner import GeneratedImage
from lens_sdk.cli import app
from lens_sdk.generators import local_generator

MODULE = "transformer_blocks.0.attn.img_qkv"


def lens(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def values(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def lora(tiny_folder: Path, tmp_path: Path) -> Path:
    """A LoRA that changes one layer of the tiny model a lot."""
    out, width = (
        local_generator(str(tiny_folder))
        .runtime.load()
        .transformer.get_submodule(MODULE)
        .weight.shape
    )
    pairs = {
        f"{MODULE}.lora_A.weight": torch.full((2, width), 0.5),
        f"{MODULE}.lora_B.weight": torch.linspace(-1, 1, 2 * out).reshape(out, 2),
    }
    save_file(pairs, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def test_a_picture_is_drawn_and_made_again_with_a_lora(
    tiny_folder: Path, lora: Path, tmp_path: Path
) -> None:
    target, model = tmp_path / "picture.png", ("--model", str(tiny_folder))
    told = ("--no-reason", "--no-judge", "--seed", "3", "--steps", "2", "--out", str(target))
    lens("generate", "a red apple", *model, *told, "--lora", f"{lora}@0.5")
    again = values("reproduce", str(target), *model, "--lora", f"{lora}@0.5")
    assert again["identical"]
    without = values("reproduce", str(target), *model, code=4)
    assert "the LoRAs were" in " ".join(without["changes"])


def test_what_is_no_lora_is_refused_before_anything_is_loaded(
    tiny_folder: Path, lora: Path, tmp_path: Path
) -> None:
    told = ("generate", "x", "--no-reason", "--no-judge", "--model", str(tiny_folder), "--lora")
    assert "'strong' is not a number" in lens(*told, f"{lora}@strong", code=2)
    missing = lens(*told, str(tmp_path / "none.safetensors"), code=1)
    assert "none.safetensors' cannot be read" in missing
    assert "Name a safetensors file or a PEFT folder" in missing


def test_a_lora_that_cannot_be_used_is_what_is_blamed(tiny_folder: Path, tmp_path: Path) -> None:
    """Not the model, which would be fetched again for nothing."""
    (tmp_path / "notes.txt").write_text("none")
    model = ("--model", str(tiny_folder), "--no-reason", "--no-judge")
    told = lens("generate", "x", *model, "--lora", str(tmp_path / "notes.txt"), code=1)
    assert "The LoRA" in told
    assert "Fetch the checkpoint" not in told


def test_the_cache_tells_models_with_loras_apart(tiny_folder: Path, lora: Path) -> None:
    marks = set()
    for loras in ((), ((lora, 1.0),), ((lora, 0.5),)):
        runtime = local_generator(str(tiny_folder)).runtime
        runtime.plan_loras(loras)
        marks.add(runtime.fingerprint)
    assert len(marks) == 3


def test_the_cache_tells_plans_apart(tiny_folder: Path) -> None:
    marks = set()
    for memory, speed in ((None, None), ("12gb", None), (None, "plain"), (None, "fp8")):
        runtime = local_generator(str(tiny_folder)).runtime
        runtime.plan_memory(memory)
        runtime.plan_speed(speed)
        marks.add(runtime.fingerprint)
    assert len(marks) == 4


def test_the_cache_tells_noise_levels_apart(tiny_folder: Path, tmp_path: Path) -> None:
    """Steps and guidance are part of a request; the levels a checkpoint brings are not."""
    other = Path(shutil.copytree(tiny_folder, tmp_path / tiny_folder.name))
    same = local_generator(str(other)).runtime.fingerprint
    assert same == local_generator(str(tiny_folder)).runtime.fingerprint
    index = json.loads((other / "model_index.json").read_text())
    steps = index["_lens_defaults"]["num_inference_steps"]
    index["_lens_defaults"]["sigmas"] = [1 - 0.9 * step / steps for step in range(steps)]
    (other / "model_index.json").write_text(json.dumps(index))
    assert local_generator(str(other)).runtime.fingerprint != same


def test_a_trained_lora_is_written_for_other_programs(
    tiny_folder: Path, lora: Path, tmp_path: Path
) -> None:
    """They know no names of PEFT and no strength in a second file."""
    trained, target = tmp_path / "weights", tmp_path / "style-comfy.safetensors"
    trained.mkdir()
    pairs = load_file(lora)
    named = {f"base_model.model.{name}": tensor for name, tensor in pairs.items()}
    save_file(named, trained / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1.0}
    (trained / "adapter_config.json").write_text(json.dumps(config))
    told = values("convert", str(trained), str(target), "--to", "comfy", "--dtype", "float32")
    assert told["component"] == "LoRA"
    # As ComfyUI looks for a weight of the model.
    found, place = load_file(target), f"diffusion_model.{MODULE}"
    scale = float(found[f"{place}.alpha"]) / len(found[f"{place}.lora_A.weight"])
    assert scale == 0.5
    assert found.keys() == {
        f"{place}.{name}" for name in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    change = scale * found[f"{place}.lora_B.weight"] @ found[f"{place}.lora_A.weight"]
    expected = 0.5 * pairs[f"{MODULE}.lora_B.weight"] @ pairs[f"{MODULE}.lora_A.weight"]
    assert torch.equal(change, expected)
    drawing = (
        "--model",
        str(tiny_folder),
        "--no-reason",
        "--no-judge",
        "--seed",
        "3",
        "--steps",
        "2",
    )
    pictures = {}
    for name, path in {"trained": trained, "written": target}.items():
        picture = tmp_path / f"{name}.png"
        lens("generate", "a red apple", *drawing, "--lora", str(path), "--out", str(picture))
        pictures[name] = GeneratedImage.load(picture).data
    assert pictures["trained"] == pictures["written"]
    assert "exists already" in lens("convert", str(trained), str(target), "--to", "comfy", code=1)
    refused = lens("convert", str(trained), "x", "--to", "single", code=1)
    assert "written as comfy, not 'single'" in refused
