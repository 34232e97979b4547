"""The model inside the package by its name, wherever a folder is taken."""

from pathlib import Path

import pytest

from lens_core import LensPipeline
from lens_core.packaged import model_folder, packaged_folder


def test_a_folder_comes_before_the_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_folder("lens-nano") == packaged_folder()
    assert model_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    Path("lens-nano").mkdir()
    assert model_folder("lens-nano") == Path("lens-nano")


def test_a_pipeline_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = LensPipeline.from_pretrained("lens-nano", text_encoder=None)
    assert pipeline.transformer.config.num_layers == 6
    assert (pipeline.defaults.height, pipeline.defaults.guidance_scale) == (128, 3.0)
