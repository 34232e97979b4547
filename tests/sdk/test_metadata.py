"""What a saved picture says about itself."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from lens_reasoner import GeneratedImage, GenerationSettings, ImageFileError, LoopResult
from lens_sdk import build_loop, read_record, save_candidate
from lens_sdk.local import LocalLensGenerator
from lens_sdk.models import package_version
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


PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How the web interface that made the form common finds the pairs of the last line."""


def parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs, as that interface reads them."""
    *lines, last = text.strip().split("\n")
    assert len(PAIR.findall(last)) >= 3
    prompt, _, negative = "\n".join(lines).partition("\nNegative prompt: ")
    values = {
        name: json.loads(value) if value.startswith('"') else value
        for name, value in PAIR.findall(last)
    }
    return prompt, negative, values


def test_other_programs_find_the_parameters(
    result: LoopResult, nano_runtime: LensRuntime, tmp_path: Path
) -> None:
    assert result.best is not None
    path = save_candidate(result, result.best, tmp_path / "picture.png")
    with Image.open(path) as picture:
        prompt, negative, values = parsed(picture.text["parameters"])
        assert picture.size == (48, 64)
    weights = nano_runtime.model.weights["transformer/diffusion_pytorch_model.safetensors"]
    assert (prompt, negative) == (TEXT, "")
    assert values == {
        "Steps": "2",
        "CFG scale": "3.0",
        "Seed": str(result.best.image.seed),
        "Size": "48x64",
        "Model": "small-nano",
        "Sampler": "Euler",
        "Model hash": weights["sha256"][:10],
        "Version": f"lens-sdk {package_version()}",
    }
    assert read_record(path)["model"] is None


def test_awkward_parameters_survive(tmp_path: Path) -> None:
    image = GeneratedImage.from_pil(
        Image.new("RGB", (8, 8)),
        prompt="a cup, 3:4,\non a table",
        seed=None,
        settings=GenerationSettings(negative_prompt="blurry, Steps: 3"),
        generator='server "x": a, b',
        recipe={"parameters": {"Denoising strength": 0.5}},
    )
    with Image.open(image.save(tmp_path / "picture.png")) as picture:
        prompt, negative, values = parsed(picture.text["parameters"])
    assert (prompt, negative) == (image.prompt, "blurry, Steps: 3")
    assert values == {"Size": "8x8", "Model": 'server "x": a, b', "Denoising strength": "0.5"}


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
