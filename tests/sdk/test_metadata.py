"""What a saved picture says about itself."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from lens_reasoner import GeneratedImage, ImageFileError, LoopResult
from lens_sdk import build_loop, read_record, save_candidate
from lens_sdk.local import LocalLensGenerator
from lens_sdk.runtime import LensRuntime

TEXT = 'zwei Äpfel & "ein" <Haus> 苹果, a red apple'


@pytest.fixture
def result(nano_runtime: LensRuntime) -> LoopResult:
    loop = build_loop(LocalLensGenerator(nano_runtime))
    return loop.run_sync(TEXT)


def test_everything_survives_the_trip_through_the_file(
    result: LoopResult, nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    assert result.best is not None
    assert result.best.verdict is not None
    path = save_candidate(result, result.best, tmp_path / "new" / "picture.png", nano_runtime.model)
    record = read_record(path)
    assert record["request"]["text"] == TEXT
    assert record["rewrite"]["prompt"] == result.best.image.prompt
    assert record["rewrite"]["model"].startswith("none: ")
    assert record["verdict"]["verdicts"] == [
        line.model_dump(mode="json") for line in result.best.verdict.verdicts
    ]
    assert record["score"] == result.best.score
    assert record["model"] == nano_runtime.model.record()
    assert set(record["versions"]) == {"lens-sdk", "python", "torch", "diffusers", "transformers"}
    assert datetime.fromisoformat(record["date"]).tzinfo is not None
    assert GeneratedImage.load(path) == result.best.image


def test_other_programs_find_the_parameters(result: LoopResult, tmp_path: Path) -> None:
    assert result.best is not None
    path = save_candidate(result, result.best, tmp_path / "picture.png")
    with Image.open(path) as picture:
        parameters = picture.text["parameters"]
        assert picture.size == (48, 64)
    seed = result.best.image.seed
    assert parameters == (
        f"{TEXT}\nSteps: 2, CFG scale: 3.0, Seed: {seed}, Size: 48x64, Model: small-nano"
    )
    assert read_record(path)["model"] is None


def test_a_recorded_seed_makes_the_same_picture_again(
    result: LoopResult, nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    assert result.best is not None
    saved = GeneratedImage.load(save_candidate(result, result.best, tmp_path / "picture.png"))
    again = build_loop(LocalLensGenerator(nano_runtime), reasoner=None, judge=None).run_sync(
        result.request.model_copy(update={"seed": saved.seed, "text": saved.prompt})
    )
    assert again.best is not None
    assert again.best.image.sha256 == saved.sha256


def test_a_picture_without_a_record_is_a_typed_error(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(ImageFileError, match=r"plain\.png"):
        read_record(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text(json.dumps({}))
    with pytest.raises(ImageFileError):
        read_record(tmp_path / "text.png")
