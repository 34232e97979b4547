"""Published models out of a folder of one's own, and the hub's cache where it was moved to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lens_core import CheckpointError, LensPipeline, ParameterError
from lens_core.checkpoints.hub import Hub
from lens_core.checkpoints.local_models import VARIABLE, find_part, local_part, models_folder
from lens_core.checkpoints.sources import find_preset
from tiny_components import tiny_pipeline

FETCH = """
from lens_core.checkpoints.hub import Hub, HubSource
print(Hub(local_only=True).fetch(HubSource("a/b", "x.safetensors", "1" * 40)))
"""


def nowhere(folder: Path) -> Hub:
    return Hub("http://127.0.0.1:9", folder / "empty", local_only=True)


def test_a_published_name_is_loaded_from_a_plain_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    tiny = tiny_pipeline()
    tiny.save_pretrained(models / "lens-turbo")
    monkeypatch.setenv(VARIABLE, str(models))
    hub = nowhere(tmp_path)
    # The tiny encoder has other tokens than GPT-OSS.
    loaded = LensPipeline.from_pretrained(
        "lens-turbo", hub=hub, dtype=torch.float32, tokenizer=tiny.tokenizer
    )
    weights = tiny.transformer.state_dict()
    found = loaded.transformer.state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert loaded.defaults.num_inference_steps == 4
    with pytest.raises(CheckpointError, match="the transformer of lens: no source worked"):
        LensPipeline.from_pretrained("lens", hub=hub)


def test_the_encoder_and_the_autoencoder_serve_all_models(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "vae.safetensors").touch()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "lens").mkdir()
    (tmp_path / "lens" / "transformer.gguf").touch()
    (tmp_path / "lens" / "vae").mkdir()
    assert local_part("lens", "transformer", tmp_path) == tmp_path / "lens" / "transformer.gguf"
    assert local_part("lens", "vae", tmp_path) == tmp_path / "lens" / "vae"
    assert local_part("lens-base", "vae", tmp_path) == tmp_path / "vae.safetensors"
    assert local_part("lens-base", "text_encoder", tmp_path) == tmp_path / "text_encoder"
    # Whose denoiser this would be, nothing says.
    assert local_part("lens-base", "transformer", tmp_path) is None


def test_a_folder_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models_folder({}) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "typo"))
    with pytest.raises(ParameterError, match=r"LENS_MODELS names .*typo"):
        find_part(find_preset("lens"), "vae", nowhere(tmp_path))


@pytest.mark.parametrize(("variable", "inside"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", ".")])
def test_the_hub_s_own_settings_hold(tmp_path: Path, variable: str, inside: str) -> None:
    place = tmp_path / inside / "models--a--b" / "snapshots" / ("1" * 40) / "x.safetensors"
    place.parent.mkdir(parents=True)
    place.touch()
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", FETCH],
        env={**others, variable: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(place), done.stderr
