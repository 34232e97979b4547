"""The models inside the package, whole and as differences."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_core import CheckpointError, LensPipeline, ParameterError
from lens_core.packaged import (
    PACKAGED_MODELS,
    WHOLE,
    _assembled,
    model_folder,
    packaged_folder,
    write_difference,
)

DENOISER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packaged models with a changed one beside the whole one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = shutil.copytree(packaged_folder(), tmp_path / "weights" / WHOLE)
    changed = shutil.copytree(whole, tmp_path / "changed")
    tensors = load_file(changed / DENOISER)
    tensors["transformer_blocks.3.attn.to_out.0.weight"] += 0.25
    tensors["proj_out.bias"] += 1
    save_file(tensors, changed / DENOISER)
    index = json.loads((changed / "model_index.json").read_text())
    index["_lens_defaults"] |= {"num_inference_steps": 4, "guidance_scale": 1.0}
    (changed / "model_index.json").write_text(json.dumps(index))
    write_difference(whole, changed, tmp_path / "weights" / "changed")
    return tmp_path / "weights"


def test_a_difference_is_small_and_gives_the_model_back(weights: Path) -> None:
    assert (weights / "changed" / "transformer.safetensors").stat().st_size < 40_000
    folder = _assembled(weights, "changed")
    assert folder.is_relative_to(weights.parent / "cache")
    assert folder.name == "changed"
    expected = load_file(weights.parent / "changed" / DENOISER)
    found = load_file(folder / DENOISER)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    pipeline = LensPipeline.from_pretrained(folder)
    assert pipeline.defaults.num_inference_steps == 4
    assert [path.name for path in folder.parent.iterdir()] == ["changed"]


def test_a_model_that_could_not_be_put_in_its_place_is_not_said_to_be_there(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a virus scanner may still be reading it; the next time it works."""

    def refuse(made: Path, folder: Path) -> None:
        raise PermissionError(13, "in use", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        with pytest.raises(PermissionError, match="in use"):
            _assembled(weights, "changed")
    assert (_assembled(weights, "changed") / DENOISER).is_file()
    assert len(list((weights.parent / "cache").rglob("changed"))) == 1


def test_a_difference_to_other_weights_is_refused(weights: Path) -> None:
    path = weights / "changed" / "transformer.safetensors"
    save_file({"proj_out.bias": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(CheckpointError, match=r"proj_out\.bias.*install lens-sdk again"):
        _assembled(weights, "changed")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"cannot be read.*install lens-sdk again"):
        _assembled(weights, "changed")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"changed is incomplete.*install lens-sdk again"):
        _assembled(weights, "changed")


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="lens-nano-base"):
        packaged_folder("lens-nano-tubro")
    assert model_folder("lens-nano") == packaged_folder()
    assert model_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    Path("lens-nano").mkdir()
    assert model_folder("lens-nano") == Path("lens-nano")
    assert len(PACKAGED_MODELS) == 3


@pytest.mark.parametrize(
    ("name", "steps", "guidance"),
    [
        ("lens-nano", 20, 3.0),
        ("lens-nano-base", 20, 3.0),
        ("lens-nano-turbo", 4, 1.0),
    ],
)
def test_packaged_models_are_loaded_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, steps: int, guidance: float
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _assembled.cache_clear()
    assert name in PACKAGED_MODELS
    pipeline = LensPipeline.from_pretrained(name, text_encoder=None)
    assert pipeline.transformer.config.num_layers == 6
    used = pipeline.defaults
    assert (used.height, used.num_inference_steps, used.guidance_scale) == (128, steps, guidance)
    card = packaged_folder().parent / name / "README.md"
    assert "NanoEval" in card.read_text(encoding="utf-8")


def test_the_packaged_models_take_24_megabytes_at_most() -> None:
    files = packaged_folder().parent.rglob("*.safetensors")
    assert sum(path.stat().st_size for path in files) < 24e6
