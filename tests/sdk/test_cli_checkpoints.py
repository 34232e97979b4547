"""`lens inspect`, `lens convert`, `lens pull`."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fake_hub import serve
from golden_components import GOLDEN, write_checkpoint
from lens_sdk.cli import app
from tiny_components import tiny_pipeline

RUNNER = CliRunner()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    # JSON is for programs, which read standard output alone.
    return result.stdout if "--json" in arguments else result.output


def test_inspect_tells_what_files_are(tmp_path: Path, wide: None) -> None:
    folder = write_checkpoint(tmp_path / "lens")
    text = run("inspect", folder)
    for part in ("denoiser, plain", "text encoder, plain experts", "autoencoder, diffusers names"):
        assert part in text
    assert "cannot rewrite prompts" in text
    found = json.loads(run("inspect", folder / "transformer", "--json"))
    assert [(part["component"], part["blocks"], part["complete"]) for part in found] == [
        ("denoiser", 2, True)
    ]


def test_inspect_fails_for_incomplete_and_dangerous_files(tmp_path: Path, wide: None) -> None:
    content = load_file(GOLDEN / "transformer.safetensors")
    del content["proj_out.bias"]
    save_file(content, tmp_path / "lacking.safetensors")
    text = run("inspect", tmp_path / "lacking.safetensors", code=1)
    assert "proj_out.bias" in text
    found = json.loads(run("inspect", tmp_path / "lacking.safetensors", "--json", code=1))
    assert found[0]["missing"] == ["proj_out.bias"]
    torch.save(content, tmp_path / "model.safetensors")
    assert "is a pickle" in run("inspect", tmp_path / "model.safetensors", code=1)
    assert "is not a file" in run("inspect", tmp_path / "nothing", code=1)


def test_convert_writes_other_layouts(tmp_path: Path, wide: None) -> None:
    folder = write_checkpoint(tmp_path / "lens")
    target = tmp_path / "d.gguf"
    text = run("convert", folder / "transformer", target, "--to", "gguf", "--gguf-type", "Q5_1")
    assert "denoiser, GGUF" in text
    assert "Q5_1" in text
    back = tmp_path / "back"
    run("convert", target, back, "--to", "diffusers", "--dtype", "float32")
    assert load_file(back / "diffusion_pytorch_model.safetensors")["img_in.bias"].dtype == (
        torch.float32
    )
    assert "exists already" in run("convert", target, back, "--to", "diffusers", code=1)
    assert "not 'bfl'" in run("convert", target, tmp_path / "x", "--to", "bfl", code=1)
    bare = GOLDEN / "transformer.safetensors"
    assert "give its config" in run("convert", bare, tmp_path / "x", "--to", "single", code=1)
    config = GOLDEN / "transformer_config.json"
    told = run("convert", bare, tmp_path / "x", "--to", "mxfp8", "--config", config, "--json")
    assert json.loads(told)["layout"] == "MXFP8"


def test_pull_downloads_and_tells_from_where(tmp_path: Path, wide: None) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "hub" / "good" / "lens" / ("3" * 40))
    with serve(tmp_path / "hub") as hub:
        arguments = ("--endpoint", hub.endpoint, "--cache", tmp_path / "cache")
        text = run("pull", "good/lens", *arguments)
        assert "from good/lens@main at commit 3333" in text
        place = re.search(r"model: (\S+)", text)
        assert place is not None
        assert (Path(place[1]) / "vae").is_dir()
        [part] = json.loads(run("pull", "good/lens", *arguments, "--json"))["parts"]
        assert (part["path"], part["commit"]) == (place[1], "3" * 40)
        text = run("pull", "lens-turbo", "--only", "vae", *arguments, code=1)
        assert "no source worked" in text
        assert text.count("flux2-vae") >= 1
    assert "neither a published model" in run("pull", "nonsense", code=1)
