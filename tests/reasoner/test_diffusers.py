"""Real diffusers pipelines with tiny random weights: what is claimed is what happens."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageInpaintPipeline
from PIL import Image

from lens_reasoner import (
    AgentLoop,
    DiffusersGenerator,
    GenerationRefusedError,
    GenerationSettings,
    Generator,
    GeneratorError,
    ImageEditor,
    ImageFileError,
    ImageRequest,
    MissingPackagesError,
    StepProgress,
    UnsupportedSettingError,
    UnsupportedSettingWarning,
)
from tiny_diffusers import BUILDERS, flux1, flux2_klein, hunyuan_image, quiet, sd15, tiny_pipeline

FAMILIES = sorted(BUILDERS)
PROMPT = "a red cup"
# How each pipeline is called by hand for guidance 6 with a blank negative prompt.
BY_HAND = {
    "qwen-image": {"true_cfg_scale": 6.0, "negative_prompt": " "},
    "flux2-klein": {"guidance_scale": 6.0},
    "z-image": {"guidance_scale": 6.0},
    "sd3.5": {"guidance_scale": 6.0},
}
NEGATIVE = [name for name in FAMILIES if name != "flux2-klein"]


@pytest.fixture(scope="session")
def pipelines():
    return {name: tiny_pipeline(name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def generator(request, pipelines):
    return DiffusersGenerator(pipelines[request.param], name=request.param, batch_size=4)


def _settings(**fields) -> GenerationSettings:
    return GenerationSettings(**{"width": 64, "height": 32, "num_inference_steps": 2} | fields)


def _draw(generator, *, prompt=PROMPT, seeds=(1,), on_step=None, **fields):
    drawing = generator.generate(
        prompt, seeds=list(seeds), settings=_settings(**fields), on_step=on_step
    )
    return asyncio.run(drawing)


def _pixels(generator, **how) -> list[np.ndarray]:
    return [np.asarray(picture.image).astype(int) for picture in _draw(generator, **how)]


def test_pictures_and_their_records(generator) -> None:
    assert isinstance(generator, Generator)
    steps: list[StepProgress] = []
    one, two = _draw(generator, seeds=(1, 2), on_step=steps.append, num_inference_steps=3)
    assert (one.seed, two.seed, one.prompt) == (1, 2, PROMPT)
    assert one.image.size == (64, 32)
    assert one.settings == _settings(
        num_inference_steps=3, guidance_scale=generator.load()[1].guidance_scale
    )
    assert one.sha256 != two.sha256
    assert [(s.step, s.total) for s in steps] == [(1, 3), (2, 3), (3, 3)]


def test_a_seed_gives_the_same_picture_alone_and_in_any_batch(generator) -> None:
    (alone,) = _pixels(generator, seeds=(5,))
    (again,) = _pixels(generator, seeds=(5,))
    batch = _pixels(generator, seeds=(9, 5, 7))
    assert (alone == again).all()
    # Batches may round otherwise; another seed differs in almost every pixel.
    assert abs(alone - batch[1]).max() <= 2
    assert abs(alone - batch[0]).mean() > 10


@pytest.mark.parametrize("family", sorted(BY_HAND))
def test_the_guidance_scale_reaches_the_pipeline(family, pipelines) -> None:
    pipeline = pipelines[family]
    ours = _pixels(DiffusersGenerator(pipeline), seeds=(3,), guidance_scale=6.0)[0]
    theirs = pipeline(
        prompt=PROMPT,
        width=64,
        height=32,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(3)],
        **BY_HAND[family],
    ).images[0]
    assert (ours == np.asarray(theirs)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_that_is_claimed_changes_the_picture(family, pipelines) -> None:
    generator = DiffusersGenerator(pipelines[family])
    base = _pixels(generator, guidance_scale=3.0)[0]
    for change in (
        {"guidance_scale": 9.0},
        {"guidance_scale": 9.0, "num_inference_steps": 3},
        {"guidance_scale": 3.0, "prompt": "blue moons on the sea"},
    ):
        assert (base != _pixels(generator, **change)[0]).any(), change
    assert generator.capabilities.negative_prompt == (family in NEGATIVE)
    if family in NEGATIVE:
        negative = {"guidance_scale": 3.0, "negative_prompt": "fog and blur"}
        assert (base != _pixels(generator, **negative)[0]).any()


def test_guidance_of_guiders_lasts_for_one_drawing(pipelines) -> None:
    pipeline = pipelines["hunyuan-image"]
    _draw(DiffusersGenerator(pipeline), guidance_scale=9.0)
    assert (pipeline.guider.guidance_scale, pipeline.ocr_guider.guidance_scale) == (3.5, 3.5)


@pytest.mark.parametrize("family", NEGATIVE)
def test_a_negative_prompt_without_guidance_is_refused_or_noted(family, pipelines) -> None:
    fields = {"guidance_scale": 0.0, "negative_prompt": "fog"}
    with pytest.raises(UnsupportedSettingError, match="acts above") as caught:
        _draw(DiffusersGenerator(pipelines[family]), **fields)
    assert caught.value.setting == "negative_prompt"
    lenient = DiffusersGenerator(pipelines[family], on_unsupported="warn")
    with pytest.warns(UnsupportedSettingWarning, match="does nothing"):
        (picture,) = _draw(lenient, **fields)
    assert picture.settings.dropped == {"negative_prompt": "fog"}
    assert picture.settings.negative_prompt == ""


def test_what_the_signature_lacks_is_refused(pipelines) -> None:
    klein = DiffusersGenerator(pipelines["flux2-klein"])
    with pytest.raises(UnsupportedSettingError, match="negative prompt"):
        _draw(klein, negative_prompt="fog")
    with pytest.raises(UnsupportedSettingError, match="multiples of 16"):
        _draw(klein, width=40)
    with pytest.raises(UnsupportedSettingError, match="true_cfg_scale"):
        _draw(klein, extra={"true_cfg_scale": 3.0})
    with pytest.raises(UnsupportedSettingError, match="qwen-image"):
        _draw(DiffusersGenerator(pipelines["z-image"], preset="zimage"))


def test_arguments_of_one_pipeline_go_through_by_name(pipelines) -> None:
    generator = DiffusersGenerator(pipelines["z-image"])
    assert "cfg_normalization" in generator.capabilities.extra
    base = _pixels(generator)[0]
    (picture,) = _draw(generator, extra={"cfg_normalization": True})
    assert (base != np.asarray(picture.image)).any()
    assert picture.settings.extra == {"cfg_normalization": True}


def test_variants_distilled_to_few_steps() -> None:
    klein = DiffusersGenerator(quiet(flux2_klein(is_distilled=True)))
    assert not klein.capabilities.guidance
    (picture,) = _draw(klein, num_inference_steps=None)
    assert (picture.settings.num_inference_steps, picture.settings.guidance_scale) == (4, None)
    hunyuan = DiffusersGenerator(quiet(hunyuan_image(distilled=True)))
    assert not hunyuan.capabilities.negative_prompt
    low, high = (_pixels(hunyuan, guidance_scale=scale)[0] for scale in (1.0, 9.0))
    assert (low != high).any()
    turbo = DiffusersGenerator(tiny_pipeline("z-image"), name="Tongyi-MAI/Z-Image-Turbo")
    (picture,) = _draw(turbo, num_inference_steps=None)
    assert (picture.settings.num_inference_steps, picture.settings.guidance_scale) == (8, 0.0)


def test_pipelines_without_a_preset() -> None:
    generator = DiffusersGenerator(quiet(sd15()))
    able = generator.capabilities
    assert (able.native_size, able.multiple_of, able.max_prompt_tokens) == ((16, 16), 2, 77)
    assert able.guidance
    assert able.negative_prompt
    base = _pixels(generator)[0]
    assert (base != _pixels(generator, guidance_scale=2.0)[0]).any()
    assert (base != _pixels(generator, negative_prompt="fog")[0]).any()
    dev = DiffusersGenerator(quiet(flux1(guidance_embeds=True)))
    assert dev.capabilities.guidance
    # The negative prompt of this pipeline goes with another scale, and would do nothing.
    assert not dev.capabilities.negative_prompt
    assert (_pixels(dev)[0] != _pixels(dev, guidance_scale=9.0)[0]).any()
    schnell = DiffusersGenerator(quiet(flux1(guidance_embeds=False)))
    assert not schnell.capabilities.guidance


def test_the_end_of_a_long_prompt_is_not_lost_in_silence(pipelines) -> None:
    for family, limit in (("qwen-image", 507), ("sd3.5", 255), ("hunyuan-image", 998)):
        generator = DiffusersGenerator(pipelines[family])
        assert generator.capabilities.max_prompt_tokens == limit
        with pytest.warns(UnsupportedSettingWarning, match=f"reads {limit} tokens"):
            (picture,) = _draw(generator, prompt="x" * (limit + 10))
        assert picture.settings.dropped["prompt_tokens"] >= 10
    with pytest.warns(UnsupportedSettingWarning, match="reads 59 tokens"):
        _draw(
            DiffusersGenerator(pipelines["qwen-image"]),
            prompt="x" * 100,
            extra={"max_sequence_length": 64},
        )


async def test_cancelling_ends_the_drawing_at_its_next_step(generator) -> None:
    steps: list[StepProgress] = []
    settings = _settings(num_inference_steps=900)
    drawing = asyncio.create_task(
        generator.generate(PROMPT, seeds=[1], settings=settings, on_step=steps.append)
    )
    async with asyncio.timeout(30):
        while len(steps) < 2:
            await asyncio.sleep(0.005)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    seen = len(steps)
    assert seen < 400
    # The next drawing waits for the thread, and finds the pipeline as it was.
    (picture,) = await generator.generate(PROMPT, seeds=[1], settings=_settings())
    assert picture.image.size == (64, 32)
    assert len(steps) == seen


def test_pictures_that_show_nothing_are_errors() -> None:
    broken = tiny_pipeline("qwen-image")
    broken.transformer.proj_out.weight.data[0, 0] = float("nan")
    steps: list[StepProgress] = []
    with pytest.raises(GeneratorError, match="not finite after step 1"):
        _draw(DiffusersGenerator(broken), on_step=steps.append, num_inference_steps=9)
    assert steps == []
    overflowing = tiny_pipeline("z-image")
    overflowing.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(GeneratorError, match="contains NaN") as caught:
        _draw(DiffusersGenerator(overflowing))
    assert "bfloat16" in caught.value.hint
    dark = tiny_pipeline("sd3.5")
    dark.vae.decoder.conv_out.weight.data.zero_()
    dark.vae.decoder.conv_out.bias.data.fill_(-5)
    with pytest.raises(GeneratorError, match="completely black"):
        _draw(DiffusersGenerator(dark))


def test_what_a_safety_checker_keeps_back_is_a_refusal() -> None:
    with pytest.raises(GenerationRefusedError, match="safety checker") as caught:
        _draw(DiffusersGenerator(quiet(sd15(flagged=True))))
    assert caught.value.categories == ("nsfw",)


def _png(color: str, size=(64, 32), hole: bool = False) -> bytes:
    picture = Image.new("RGBA" if hole else "RGB", size, color)
    if hole:
        picture.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_pipelines_that_start_from_a_picture(pipelines) -> None:
    klein = DiffusersGenerator(pipelines["flux2-klein"])
    assert isinstance(klein, ImageEditor)
    assert (klein.capabilities.image_input, klein.capabilities.mask) == (True, False)
    red, blue = (klein.editing(_png(color, (96, 64))) for color in ("red", "blue"))
    drawn = [_pixels(generator, width=None, height=None)[0] for generator in (red, blue)]
    assert drawn[0].shape == (64, 96, 3)
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] != _pixels(klein, width=96, height=64)[0]).any()
    assert len({generator.fingerprint for generator in (klein, red, blue)}) == 3
    with pytest.raises(UnsupportedSettingError, match="mask"):
        klein.editing(_png("red"), mask=_png("white", hole=True))
    with pytest.raises(UnsupportedSettingError, match="prompt alone"):
        DiffusersGenerator(pipelines["qwen-image"]).editing(_png("red"))
    with pytest.raises(ImageFileError, match="not a PNG"):
        klein.editing(b"<html>")


def test_a_mask_says_which_part_changes(pipelines, monkeypatch) -> None:
    inpainting = quiet(QwenImageInpaintPipeline(**pipelines["qwen-image"].components))
    generator = DiffusersGenerator(inpainting)
    assert generator.capabilities.mask
    editor = generator.editing(_png("red"), mask=_png("white", hole=True))
    seen = []
    preprocess = inpainting.mask_processor.preprocess

    def look(mask, **how):
        seen.append(np.asarray(mask))
        return preprocess(mask, **how)

    monkeypatch.setattr(inpainting.mask_processor, "preprocess", look)
    _draw(editor, extra={"strength": 1.0}, width=None, height=None)
    assert (seen[0][:, :32] == 255).all()
    assert (seen[0][:, 32:] == 0).all()
    with pytest.raises(ImageFileError, match="32x32"):
        generator.editing(_png("red"), mask=_png("white", size=(32, 32), hole=True))
    with pytest.raises(ImageFileError, match="transparency"):
        generator.editing(_png("red"), mask=_png("white"))


def test_the_fingerprint_tells_weights_apart() -> None:
    first, same = (DiffusersGenerator(tiny_pipeline("qwen-image")) for _ in range(2))
    assert first.fingerprint == same.fingerprint
    same.load()[0].transformer.proj_out.weight.data[0, 0] += 1
    assert first.fingerprint != same.fingerprint
    distilled = DiffusersGenerator(flux2_klein(is_distilled=True)).fingerprint
    assert DiffusersGenerator(flux2_klein()).fingerprint != distilled


def test_errors_of_the_pipeline_are_told(pipelines) -> None:
    with pytest.raises(GeneratorError, match="cannot be greater than 1024"):
        _draw(
            DiffusersGenerator(pipelines["qwen-image"]),
            extra={"max_sequence_length": 4096},
        )


def test_models_are_loaded_from_folders_when_first_needed(tmp_path: Path, pipelines) -> None:
    folder = tmp_path / "my-model"
    pipelines["qwen-image"].save_pretrained(folder)
    generator = DiffusersGenerator(folder, device="cpu")
    assert generator.name == "my-model"
    request = ImageRequest(text=PROMPT, width=64, height=32, num_inference_steps=2, seed=4)
    result = AgentLoop(generator=generator).run_sync(request)
    same = _pixels(DiffusersGenerator(pipelines["qwen-image"]), seeds=(4,))[0]
    # The same weights elsewhere in memory may round otherwise.
    assert abs(np.asarray(result.best.image.image).astype(int) - same).max() <= 1
    assert generator.fingerprint == DiffusersGenerator(folder, device="cpu").fingerprint
    assert result.best.image.generator == "my-model"


def test_a_model_that_is_not_there_is_told(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(GeneratorError, match="cannot be loaded") as caught:
        _ = DiffusersGenerator(tmp_path).capabilities
    assert "model_index.json" in caught.value.hint
    monkeypatch.setattr("lens_reasoner.generators.diffusers_loading.find_spec", lambda name: None)
    with pytest.raises(MissingPackagesError, match=r'pip install "lens-sdk\[local\]"'):
        DiffusersGenerator("Qwen/Qwen-Image")
