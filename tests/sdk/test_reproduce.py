"""Pictures made again from their files, from prompts and from other pictures."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from lens_core.solvers import SolverName
from lens_reasoner import (
    FunctionGenerator,
    GeneratedImage,
    GenerationSettings,
    ImageEditor,
    ImageFileError,
    ImageRequest,
    UnsupportedSettingError,
)
from lens_sdk import LocalLensGenerator, build_loop, recipe, save_candidate
from lens_sdk.cli import app
from lens_sdk.editing import transparent_mask
from lens_sdk.errors import ReproductionError
from lens_sdk.models import LensModel, resolve_model
from lens_sdk.recipe import SAMPLERS
from lens_sdk.reproduce import reproduce
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.drawing import BatchingLensGenerator, batching


@pytest.fixture
def generator(nano_runtime: LensRuntime) -> LocalLensGenerator:
    return LocalLensGenerator(nano_runtime)


def draw(generator: Any, *seeds: int, **settings: Any) -> list[GeneratedImage]:
    asked = GenerationSettings(**settings)
    return asyncio.run(generator.generate("a red apple", seeds=seeds, settings=asked))


def png(width: int = 48, height: int = 64, color: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, format="PNG")
    return buffer.getvalue()


def half_white(width: int = 48, height: int = 64) -> bytes:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_saved_picture_is_made_again_pixel_by_pixel(
    generator: LocalLensGenerator, tmp_path: Path
) -> None:
    asked = {"negative_prompt": "a cup", "num_inference_steps": 8, "width": 64, "height": 48}
    extra = {
        "date": "2026-01-02",
        "guidance_interval": [0.3, 0.9],
        "solver": "dpmpp_2m",
        "shift": 3,
    }
    image = draw(generator, 5, 6, 7, **asked, extra=extra)[1]
    found = reproduce(image.save(tmp_path / "picture.png"), model=generator)
    assert found.identical
    assert found.changes == ()
    assert found.again.recipe == image.recipe
    assert image.recipe["batch"] == {"seeds": [5, 6, 7], "index": 1}
    assert image.recipe["date"] == "2026-01-02"
    shown = image.recipe["parameters"]
    assert (shown["Sampler"], shown["Shift"]) == ("DPM++ 2M", 3)
    assert set(SAMPLERS) == set(get_args(SolverName))
    for name in extra:
        others = {key: value for key, value in extra.items() if key != name}
        assert draw(generator, 5, 6, 7, **asked, extra=others)[1].sha256 != image.sha256


def test_a_run_of_the_loop_can_be_made_again(
    generator: LocalLensGenerator, nano_model: LensModel, tmp_path: Path
) -> None:
    loop = build_loop(generator, reasoner=None, judge=None)
    result = loop.run_sync(ImageRequest(text="a red apple", seed=3, num_images=2))
    for candidate in result.candidates:
        path = save_candidate(result, candidate, tmp_path / "picture.png", nano_model)
        assert reproduce(path, model=generator).identical


def test_what_changed_since_is_told(generator: LocalLensGenerator, tmp_path: Path) -> None:
    image = draw(generator, 5)[0]
    made = json.loads(json.dumps(image.recipe))
    made["versions"]["torch"] = "1.0"
    made["model"]["weights"]["vae/other.safetensors"] = {"bytes": 1, "sha256": "0" * 64}
    made["dtype"] = "bfloat16"
    other = Image.fromarray(np.asarray(image.image) // 2)
    changed = GeneratedImage.from_pil(
        other,
        prompt=image.prompt,
        seed=image.seed,
        settings=image.settings,
        generator=image.generator,
        recipe=made,
    )
    found = reproduce(changed.save(tmp_path / "picture.png"), model=generator)
    assert not found.identical
    assert found.difference.total == 48 * 64
    assert 0 < found.difference.pixels <= found.difference.total
    told = " ".join(found.changes)
    for words in ("torch was 1.0", "vae/other.safetensors", "dtype was bfloat16 and is float32"):
        assert words in told


def test_a_lora_is_known_by_its_weights(generator: LocalLensGenerator, tmp_path: Path) -> None:
    pipeline = generator.runtime.load()
    module = "transformer_blocks.0.attn.img_qkv"
    layer = pipeline.transformer.get_submodule(module)
    assert isinstance(layer, torch.nn.Linear)
    files = []
    for value in (0.2, 0.3):
        down = torch.full((2, layer.in_features), value)
        up = torch.full((layer.out_features, 2), value)
        pairs = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        files.append(tmp_path / f"{value}.safetensors")
        save_file(pairs, files[-1])
    try:
        pipeline.load_lora_weights(files[0], "style", 0.5)
        image = draw(generator, 5)[0]
        path = image.save(tmp_path / "picture.png")
        again = reproduce(path, model=generator)
        pipeline.load_lora_weights(files[1], "style", 0.5, hotswap=True)
        other = reproduce(path, model=generator)
    finally:
        pipeline.unload_lora_weights()
    assert again.identical
    assert again.changes == ()
    assert not other.identical
    assert image.recipe["loras"]["style"]["sha256"] in " ".join(other.changes)


def test_an_edited_picture_keeps_what_it_started_from(
    generator: LocalLensGenerator, tmp_path: Path
) -> None:
    assert isinstance(generator, ImageEditor)
    editor = generator.editing(png(), mask=transparent_mask(half_white()), mask_feather=3)
    loop = build_loop(editor, judge=None, reasoner=None)
    result = loop.run_sync(ImageRequest(text="a red apple", seed=4))
    assert result.best is not None
    image = result.best.image
    assert image.settings.extra == {"strength": 1.0, "mask_feather": 3}
    kept = np.asarray(image.image)[:, 24 + 3 :]
    assert (kept == np.asarray(Image.open(io.BytesIO(png())))[:, 27:]).all()
    assert (np.asarray(image.image)[:, :24] != kept[0, 0]).any()
    path = save_candidate(result, result.best, tmp_path / "picture.png")
    assert reproduce(path, model=generator).identical
    with Image.open(path) as picture:
        assert "Denoising strength: 1.0" in picture.text["parameters"]


def test_a_source_too_large_to_keep_is_asked_for(
    generator: LocalLensGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "LARGEST_EMBEDDED", 10)
    source, other = tmp_path / "source.png", tmp_path / "other.png"
    source.write_bytes(png())
    other.write_bytes(png(color="red"))
    image = draw(generator.editing(png(), strength=0.5), 1)[0]
    path = image.save(tmp_path / "picture.png")
    with pytest.raises(ReproductionError, match="too large"):
        reproduce(path, model=generator)
    with pytest.raises(ReproductionError, match=r"other\.png is not the image"):
        reproduce(path, model=generator, image=other)
    assert reproduce(path, model=generator, image=source).identical


def test_editing_declares_and_checks_what_it_takes(
    generator: LocalLensGenerator, nano_runtime: LensRuntime
) -> None:
    assert generator.capabilities.image_input
    assert generator.capabilities.mask
    editor = generator.editing(png(70, 75))
    assert editor.capabilities.native_size == (64, 80)
    first, second = draw(editor, 1)[0], draw(editor, 1, width=32, height=48)[0]
    assert (first.image.size, second.image.size) == ((64, 80), (32, 48))
    assert first.settings.extra == {"strength": 0.6}
    prints = {
        one.fingerprint
        for one in (
            generator,
            editor,
            generator.editing(png()),
            generator.editing(png(), strength=1),
        )
    }
    assert len(prints) == 4
    with pytest.raises(ImageFileError, match="48x64 and the image 70x75"):
        generator.editing(png(70, 75), mask=transparent_mask(half_white()))
    with pytest.raises(UnsupportedSettingError, match="strength"):
        draw(generator, 1, extra={"strength": 0.5})
    # A server's generator shares its weights with the editor, which draws by itself.
    assert batching(editor) is editor
    server = BatchingLensGenerator(nano_runtime)
    try:
        edited = draw(server.editing(png()), 1)[0]
    finally:
        server.close()
    assert edited.sha256 == draw(generator.editing(png()), 1)[0].sha256


def test_pictures_of_others_say_why_they_cannot_be_made_again(tmp_path: Path) -> None:
    drawing = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (8, 8), (seed, 0, 0)))
    path = draw(drawing, 7)[0].save(tmp_path / "picture.png")
    with pytest.raises(ReproductionError, match="--model"):
        reproduce(path)
    found = reproduce(path, model=drawing)
    assert found.identical
    assert "does not say" in found.changes[0]
    random = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (8, 8)), seed=False)
    with pytest.raises(ReproductionError, match="took no seed"):
        reproduce(draw(random, 7)[0].save(tmp_path / "random.png"), model=random)
    large = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (9, 9)))
    with pytest.raises(ReproductionError, match="8x8 and what was drawn 9x9"):
        reproduce(path, model=large)


def test_the_command_tells_whether_pixels_agree(
    generator: LocalLensGenerator, nano_folder: Path, tmp_path: Path
) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        return re.sub(r"\s+", " ", result.output)

    image = draw(generator, 5)[0]
    path = image.save(tmp_path / "picture.png")
    again = tmp_path / "again.png"
    assert "every pixel is the same" in run(path, "--model", nano_folder, "--out", again)
    assert GeneratedImage.load(again).sha256 == image.sha256
    folder = tmp_path / "others"
    assert str(folder / "picture.png") in run(path, "--model", nano_folder, "--out", folder)
    assert "--model" in run(path, code=1)
    spoilt = image.model_copy(update={"prompt": "a blue star"}).save(tmp_path / "spoilt.png")
    assert "Different" in run(spoilt, "--model", nano_folder, code=4)
    values = json.loads(run(spoilt, "--model", nano_folder, "--json", code=4))
    assert values["identical"] is False
    assert values["difference"]["pixels"] > 0
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert "metadata" in run(tmp_path / "plain.png", code=1)


def test_the_command_draws_from_a_picture_inside_a_mask(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source.png").write_bytes(png())
    Path("mask.png").write_bytes(half_white())

    def run(*arguments: str, code: int = 0) -> str:
        plain = ("generate", "a red apple", "--no-reason", "--no-judge", "--seed", "3")
        result = CliRunner().invoke(app, [*plain, "--out", "new.png", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    nano = ("--model", str(nano_folder))
    run(*nano, "--image", "source.png", "--mask", "mask.png")
    kept = np.asarray(Image.open("new.png"))[:, 24 + 8 :]
    assert (kept == np.asarray(Image.open("source.png"))[:, 32:]).all()
    run(*nano, "--image", "source.png", "--strength", "0.5")
    assert GeneratedImage.load("new.png").settings.extra == {"strength": 0.5}
    assert "are for --image" in run(*nano, "--mask", "mask.png", code=2)
    assert "strength 2" in run(*nano, "--image", "source.png", "--strength", "2", code=1)
    assert "not an image" in run(*nano, "--image", "source.png", "--mask", __file__, code=1)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    openai = ("--model", "openai", "--image", "source.png", "--strength", "0.5")
    assert "strength is not supported" in run(*openai, code=1)
    assert "base 1000" in run(*nano, "--size", "16:9@1000", code=2)


def test_it_is_drawn_with_the_plans_of_then(nano_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    drawn = ("a red apple", "--no-reason", "--no-judge", "--seed", "3", "--out", str(path))
    plans = ("--memory", "12gb", "--speed", "plain", "--json")
    model = ("--model", str(nano_folder))
    result = CliRunner().invoke(app, ["generate", *drawn, *plans, *model])
    assert result.exit_code == 0, result.output
    recipe = GeneratedImage.load(path).recipe
    assert (recipe["memory"], recipe["speed"]) == ("12gb", "plain")
    found = reproduce(path, model=str(nano_folder))
    assert (found.identical, found.changes) == (True, ())
    loaded = LocalLensGenerator(LensRuntime(resolve_model(str(nano_folder))))
    loaded.runtime.load()
    told = reproduce(path, model=loaded).changes
    assert told == ("the memory was 12gb and is resident", "the speed was plain and is None")
