"""Starting from a picture: which steps are run, what changes, and what must not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline
from PIL import Image

import lens_core
from golden_components import max_error
from lens_core import LensPipeline, ParameterError
from lens_core.latents import encode_pixels
from lens_core.nano import sample_scene
from lens_core.nano.drawing import render
from lens_core.source_pictures import cover, feathered, read_pictures, to_pixels
from lens_core.starting_points import first_step
from tiny_components import tiny_pipeline

PROMPTS = ["a red cup", "two small green apples under a very large yellow star"]
FEW = {"num_inference_steps": 5}
NANO = Path(lens_core.__file__).parent / "weights" / "lens-nano"


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def nano() -> LensPipeline:
    loaded = LensPipeline.from_pretrained(NANO)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    picture = render(sample_scene(np.random.default_rng(seed), size=(128, 128)))
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def mask_of(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, box)
    return mask


def distance(picture: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(picture).astype(int) - np.asarray(other)).mean())


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.55, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_strength_counts_steps_as_diffusers_does(strength: float, steps: int) -> None:
    scheduler = SimpleNamespace(timesteps=list(range(steps)), order=1)
    reference = SimpleNamespace(scheduler=scheduler)
    left, count = FluxImg2ImgPipeline.get_timesteps(reference, steps, strength, None)
    begin = first_step(steps, strength)
    assert (list(range(begin, steps)), steps - begin) == (left, count)


def test_the_full_schedule_is_entered_at_its_own_noise_level(pipeline: LensPipeline) -> None:
    source, seen = scene(48, 64), []

    def keep(pipe: LensPipeline, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(float(time))
        return {}

    calls: list[tuple[Any, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, args, named: calls.append((named["hidden_states"], named["timestep"])),
        with_kwargs=True,
    )
    asked = {"image": source, "num_inference_steps": 10, "guidance_scale": 1.0}
    try:
        pipeline("a red cup", strength=0.3, seed=5, callback_on_step_end=keep, **asked)
    finally:
        hook.remove()
    sigmas = pipeline.scheduler.sigmas
    assert len(sigmas) == 11
    assert pipeline.num_timesteps == len(seen) == len(calls) == 3
    assert torch.allclose(torch.tensor(seen), sigmas[7:10] * 1000)
    noise = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(5))
    tokens = encode_pixels(to_pixels([source]), pipeline.vae).detach()
    entered, time = calls[0]
    assert max_error(entered, (1 - sigmas[7]) * tokens + sigmas[7] * noise) < 1e-5
    assert float(time[0]) == pytest.approx(float(sigmas[7]))


def test_at_full_strength_nothing_of_the_picture_is_left(pipeline: LensPipeline) -> None:
    drawn = pipeline("a red cup", seed=1, output_type="latent").images
    over = pipeline("a red cup", image=scene(48, 64), strength=1, seed=1, output_type="latent")
    assert max_error(over.images, drawn) < 1e-6


def test_less_strength_keeps_more_of_the_picture(nano: LensPipeline) -> None:
    source = scene(64, 64, seed=3)
    apart = [
        distance(
            nano("a cat", image=source, strength=s, seed=1, num_inference_steps=5).images[0], source
        )
        for s in (0.2, 0.6, 1.0)
    ]
    assert apart[0] < apart[1] < apart[2]


def test_outside_the_feather_every_pixel_is_the_sources(nano: LensPipeline) -> None:
    pictures = [scene(96, 64), scene(70, 75, seed=1)]
    masks = [mask_of(pictures[0], (50, 10, 80, 40)), mask_of(pictures[1], (0, 0, 25, 75))]
    arguments = {"mask_feather": 5, "num_inference_steps": 2, "num_images_per_prompt": 2, "seed": 3}
    drawn = nano(PROMPTS, image=pictures, mask_image=masks, **arguments).images
    assert [one.size for one in drawn] == [(96, 64)] * 2 + [(64, 80)] * 2
    for index, one in enumerate(drawn):
        source = cover(pictures[index // 2], one.height, one.width)
        mask = cover(masks[index // 2], one.height, one.width)
        new, old = np.asarray(one), np.asarray(source)
        kept = feathered(mask, 5) == 0
        assert kept.mean() > 0.2
        np.testing.assert_array_equal(new[kept], old[kept])
        inside = np.asarray(mask) > 0
        assert np.abs(new[inside].astype(int) - old[inside]).mean() > 10
    assert distance(drawn[0], drawn[1]) > 1
    one = {key: value for key, value in arguments.items() if key != "num_images_per_prompt"}
    alone = nano(PROMPTS[1], image=pictures[1], mask_image=masks[1], **{**one, "seed": 6}).images[0]
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(drawn[3])).max() <= 1


@pytest.mark.parametrize("kind", ["np", "pt", "latent", "reference"])
def test_what_is_kept_is_kept_in_every_form(pipeline: LensPipeline, kind: str) -> None:
    source = scene(48, 64)
    mask = mask_of(source, (0, 0, 16, 16))
    asked = {"image": source, "mask_image": mask, "mask_feather": 0, "seed": 0}
    if kind == "reference":
        picture = pipeline("a cup", reference=True, **asked).images[0]
        np.testing.assert_array_equal(np.asarray(picture)[16:], np.asarray(source)[16:])
        return
    found = pipeline("a cup", output_type=kind, **asked).images
    if kind == "latent":
        tokens = encode_pixels(to_pixels([source]), pipeline.vae)
        assert torch.equal(found[:, 1:], tokens[:, 1:])
        assert max_error(found[:, :1], tokens[:, :1]) > 0.1
        return
    rows = found if kind == "np" else found.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(rows[0, 16:], np.asarray(source)[16:] / 255, atol=1e-6)


def test_the_feather_ends_where_it_should() -> None:
    mask = mask_of(Image.new("RGB", (40, 8)), (0, 0, 10, 8))
    row = feathered(mask, 4)[3]
    assert (row[:10] == 1).all()
    assert row[9] > row[10] > row[11] > row[12] > row[13] > 0
    assert (row[14:] == 0).all()
    assert set(np.unique(feathered(mask, 0))) == {0, 1}


def test_a_thin_mask_is_not_lost_when_it_is_scaled(pipeline: LensPipeline) -> None:
    line = Image.new("L", (480, 640))
    line.paste(255, (211, 0, 212, 640))
    scaled = np.asarray(cover(line, 64, 48))
    assert (scaled[:, 21] == 255).all()
    assert scaled.sum() == 64 * 255
    corner = Image.new("L", (640, 480))
    corner.paste(255, (0, 0, 10, 480))
    with pytest.raises(ParameterError, match="cut off to make 48x64"):
        pipeline("a cup", image=scene(640, 480), mask_image=corner, height=64, width=48)


def test_pictures_may_come_as_files_arrays_and_tensors(
    pipeline: LensPipeline, tmp_path: Path
) -> None:
    source = scene(48, 64)
    source.save(tmp_path / "source.png")
    array = np.asarray(source)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    asked = {"strength": 0.5, "seed": 0, "output_type": "latent"}
    expected = pipeline("a cup", image=source, **asked).images
    for given in (tmp_path / "source.png", array, tensor, [source]):
        assert torch.equal(pipeline("a cup", image=given, **asked).images, expected)
    sized = pipeline("a cup", image=scene(70, 200), seed=0).images[0]
    # From 1:2, and not of more than twice the checkpoint's own area.
    assert sized.size == (48, 96)
    assert pipeline.fitting_size(1000, 1000) == (64, 64)
    assert pipeline("a cup", image=source, width=32, height=32, seed=0).images[0].size == (32, 32)


def test_pictures_are_turned_upright_and_deep_ones_scaled(tmp_path: Path) -> None:
    source, turned = scene(48, 64), Image.Exif()
    turned[0x0112] = 6
    source.save(tmp_path / "photo.png", exif=turned)
    upright = np.rot90(np.asarray(source), -1)
    for given in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        assert np.array_equal(np.asarray(read_pictures(given, "image")[0]), upright)
    deep = np.asarray(source).astype(np.uint16)[..., 0] * 257
    read = read_pictures(Image.fromarray(deep), "image")[0]
    assert np.array_equal(np.asarray(read)[..., 0], np.asarray(source)[..., 0])


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene(48, 64).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    for given in (tmp_path / "cut.png", Image.open(tmp_path / "cut.png")):
        with pytest.raises(ParameterError, match="truncated"):
            read_pictures(given, "image")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ParameterError, match="decompression bomb"):
        read_pictures(tmp_path / "a.png", "image")
    with pytest.raises(ParameterError, match="holds no pixels"):
        read_pictures(np.zeros((0, 4, 3)), "image")


WHITE = Image.new("L", (48, 64), 255)
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"strength": 0.5}, "strength was given without image"),
    ({"mask_image": WHITE}, "mask_image was given without image"),
    ({"image": WHITE, "mask_feather": 2}, "mask_feather was given without mask_image"),
    ({"image": WHITE, "strength": 0}, "strength 0 must be above 0"),
    ({"image": WHITE, "strength": 1.2}, r"strength 1\.2"),
    ({"image": WHITE, "mask_image": WHITE, "mask_feather": -1}, "mask_feather -1"),
    ({"image": WHITE, "mask_image": Image.new("L", (48, 64))}, "black throughout"),
    ({"image": WHITE, "mask_image": Image.new("L", (48, 48), 255)}, "48x48"),
    ({"image": [WHITE, WHITE]}, "list of 2 for 1 prompts"),
    ({"image": []}, "empty list"),
    ({"image": "no/such/file.png"}, "cannot be read"),
    ({"image": 5}, "image is int"),
    ({"image": np.zeros((4, 4), np.uint8)}, r"\(4, 4\)"),
    ({"image": np.full((4, 4, 3), 2.0)}, "from 0 to 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_a_bad_start_names_the_value(
    pipeline: LensPipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        pipeline("a red cup", **arguments)
