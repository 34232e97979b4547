"""The local generator: seeds, settings, refusals, cancelling."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import lens_sdk
from lens_core import InvalidSizeError
from lens_core.pipeline import LensPipeline
from lens_core.sizes import validate_size
from lens_reasoner import (
    AgentLoop,
    GenerationSettings,
    Generator,
    GeneratorError,
    ImageRequest,
    StepProgress,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
)
from lens_reasoner.settings import check_settings, honoured_settings
from lens_sdk import Lens, LocalLensGenerator
from lens_sdk.cli import app
from lens_sdk.models import LensModel, resolve_model
from lens_sdk.runtime import LensRuntime

PLAIN = GenerationSettings()


@pytest.fixture
def generator(nano_runtime: LensRuntime) -> LocalLensGenerator:
    return LocalLensGenerator(nano_runtime)


def _pixels(generator: LocalLensGenerator, seeds: list[int]) -> list[np.ndarray]:
    images = asyncio.run(generator.generate("a red apple", seeds=seeds, settings=PLAIN))
    return [np.asarray(image.image).astype(int) for image in images]


def test_a_seed_keeps_its_picture_in_any_batch(generator: LocalLensGenerator) -> None:
    alone, together = _pixels(generator, [7])[0], _pixels(generator, [3, 7, 9])
    assert np.abs(alone - together[1]).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 20


def test_settings_that_were_used_are_recorded(generator: LocalLensGenerator) -> None:
    assert isinstance(generator, Generator)
    asked = GenerationSettings(width=64, height=48, num_inference_steps=3, negative_prompt="a cup")
    steps: list[StepProgress] = []
    images = asyncio.run(
        generator.generate("a star", seeds=[1, 2], settings=asked, on_step=steps.append)
    )
    assert [image.seed for image in images] == [1, 2]
    assert images[0].image.size == (64, 48)
    assert images[0].settings == asked.model_copy(update={"guidance_scale": 3.0})
    assert images[0].generator == "small-nano"
    assert images[0].timings["generate"] > 0
    assert [(step.step, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]


def test_capabilities_are_the_checkpoints(generator: LocalLensGenerator) -> None:
    capabilities = generator.capabilities
    assert capabilities.native_size == (48, 64)
    assert capabilities.multiple_of == 16
    assert capabilities.max_images == 8
    assert (160, 96) in capabilities.preferred_sizes
    assert capabilities.seed
    assert capabilities.negative_prompt


def test_capabilities_are_known_without_loading(nano_runtime: LensRuntime) -> None:
    runtime = LensRuntime(nano_runtime.model)
    assert LocalLensGenerator(runtime).capabilities == LocalLensGenerator(nano_runtime).capabilities
    assert not runtime.loaded


@hypothesis_settings(deadline=None)
@given(*[st.one_of(st.integers(1, 2200), st.integers(1, 140).map(lambda n: 16 * n))] * 2)
@example(2080, 1040)
@example(1088, 1936)
@example(2080, 1056)
@example(1440, 1440)
def test_what_the_model_would_refuse_is_refused_beforehand(width: int, height: int) -> None:
    generator = LocalLensGenerator(LensRuntime(resolve_model()))
    asked = GenerationSettings(width=width, height=height)
    try:
        validate_size(height, width)
    except InvalidSizeError:
        with pytest.raises(UnsupportedSettingError):
            check_settings(asked, generator.capabilities, backend="lens")
    else:
        assert check_settings(asked, generator.capabilities, backend="lens") == asked


IMPOSSIBLE = [
    ("size", {"width": 100, "height": 130}),
    ("size", {"width": 2000, "height": 2000}),
    ("size", {"width": 1024, "height": 256}),
    ("guidance_scale", {"guidance_scale": 0.5}),
    ("date", {"extra": {"date": "tomorrow"}}),
    ("guidance_interval", {"extra": {"guidance_interval": [5, 9]}}),
    ("guidance_interval", {"extra": {"guidance_interval": "half"}}),
    ("solver", {"extra": {"solver": "heun"}}),
    ("shift", {"extra": {"shift": 0}}),
]


@pytest.mark.parametrize(("setting", "fields"), IMPOSSIBLE)
def test_the_impossible_is_refused_before_the_model_is_loaded(
    nano_model: LensModel, setting: str, fields: dict[str, Any]
) -> None:
    runtime = LensRuntime(nano_model)
    generator = LocalLensGenerator(runtime)
    client = Lens(generator, base_url="", folder=None, reasoner="none", judge="none")
    with pytest.raises(UnsupportedSettingError, match=setting):
        lens_sdk.generate("a star", model=generator, **fields)
    with pytest.raises(UnsupportedSettingError, match=setting):
        client.images.generate("a star", **fields)
    with pytest.raises(UnsupportedSettingError, match=setting) as caught:
        client.create("a star", **fields)
    assert caught.value.setting == setting
    assert not runtime.loaded


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("size", ["--size", "100x130"]),
        ("size", ["--size", "1024x256"]),
        ("guidance_scale", ["--guidance", "0.5"]),
        ("guidance_interval", ["--extra", "guidance_interval=[5,9]"]),
        ("strength", ["--image", "star.png", "--strength", "1.5"]),
        ("strength", ["--image", "star.png", "--extra", "strength=0"]),
        ("mask_feather", ["--image", "star.png", "--extra", "mask_feather=4"]),
    ],
)
def test_the_command_refuses_it_without_loading(
    nano_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    options: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48)).save("star.png")
    command = ["generate", "a star", "--model", str(nano_folder), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert setting in done.output
    assert "is not supported" in done.output
    assert "Loading" not in done.output


def test_what_the_model_refuses_may_be_left_out(nano_model: LensModel) -> None:
    generator = LocalLensGenerator(LensRuntime(nano_model))
    extra: dict[str, Any] = {"guidance_interval": [5, 9], "date": "2026-01-01", "sampler": "x"}
    asked = ImageRequest(text="a star", guidance_scale=0.5, extra=extra)
    with pytest.warns(UnsupportedSettingWarning, match="guidance_interval"):
        kept = honoured_settings(asked, generator, "warn")
    assert kept == GenerationSettings(
        extra={"date": "2026-01-01"},
        dropped={"guidance_scale": 0.5, "guidance_interval": [5, 9], "sampler": "x"},
    )


def test_a_picture_is_edited_at_a_size_known_without_loading(nano_model: LensModel) -> None:
    runtime, file = LensRuntime(nano_model), io.BytesIO()
    Image.new("RGB", (70, 50)).save(file, "PNG")
    editing = LocalLensGenerator(runtime).editing(file.getvalue())
    assert editing.capabilities.native_size == (64, 48)
    assert not runtime.loaded


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 50, "height": 64}, "multiples of 16"),
        ({"width": 256, "height": 64}, "at most 2 times"),
        ({"guidance_scale": 0.5}, "guidance_scale 0.5"),
    ],
)
def test_what_lens_cannot_do_is_a_typed_error(
    generator: LocalLensGenerator, settings: dict[str, float], words: str
) -> None:
    asked = GenerationSettings.model_validate(settings)
    with pytest.raises(GeneratorError, match=words):
        asyncio.run(generator.generate("a star", seeds=[1], settings=asked))


def test_a_bad_size_is_refused_before_anything_is_drawn(generator: LocalLensGenerator) -> None:
    with pytest.raises(UnsupportedSettingError, match="size"):
        AgentLoop(generator=generator).run_sync(ImageRequest(text="a star", width=50, height=64))


async def test_cancelling_ends_the_drawing_between_steps(generator: LocalLensGenerator) -> None:
    began, seen = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def on_step(progress: StepProgress) -> None:
        seen.append(progress.step)
        loop.call_soon_threadsafe(began.set)

    many = GenerationSettings(num_inference_steps=2000)
    task = asyncio.create_task(
        generator.generate("a star", seeds=[1], settings=many, on_step=on_step)
    )
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The thread has let go of the model as soon as another picture is drawn.
    await generator.generate("a star", seeds=[1], settings=PLAIN)
    assert len(seen) < 2000


def test_the_checkpoint_is_loaded_once(nano_model: LensModel) -> None:
    runtime = LensRuntime(nano_model)
    assert not runtime.loaded
    first = LocalLensGenerator(runtime)
    assert first.capabilities.native_size == (48, 64)
    assert runtime.load() is runtime.load()
    assert isinstance(runtime.load(), LensPipeline)


def test_a_broken_checkpoint_is_a_typed_error(nano_model: LensModel) -> None:
    broken = LensModel(name="broken", folder=nano_model.folder / "vae", nano=True)
    with pytest.raises(GeneratorError, match="'broken'"):
        LensRuntime(broken).load()
