"""Several prompts and sizes in one call, seeds, previews, and ending early."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lens_core
from golden_components import max_error
from lens_core import (
    CheckpointError,
    InvalidSizeError,
    LensCoreError,
    LensPipeline,
    ParameterError,
    SamplingCancelledError,
)
from lens_core.latents import encode_pixels
from lens_core.loading import load_vae
from lens_core.nano import sample_scene
from lens_core.nano.drawing import render
from lens_core.previews import FILE_NAME, PreviewMap, find_preview_map, fit_preview_map
from lens_core.source_pictures import to_pixels
from lens_core.steps import StepReport
from tiny_components import tiny_pipeline

PROMPTS = ["a red cup", "two small green apples under a very large yellow star", "a blue hat"]
SIZES = {"height": [64, 32, 64], "width": [48, 48, 48]}
NANO = Path(lens_core.__file__).parent / "weights" / "lens-nano"


@pytest.fixture(scope="module")
def pipeline() -> LensPipeline:
    return tiny_pipeline()


def latents(pipeline: LensPipeline, prompt: Any, **arguments: Any) -> Any:
    return pipeline(prompt, output_type="latent", **arguments).images


def test_every_picture_is_the_one_it_would_be_alone(pipeline: LensPipeline) -> None:
    negative = ["", "blurry", "a dog"]
    arguments = {"seed": [5, 6, 7, 8, 9, 10], "num_images_per_prompt": 2}
    together = latents(pipeline, PROMPTS, negative_prompt=negative, **SIZES, **arguments)
    assert [tuple(one.shape) for one in together] == [(12, 16)] * 2 + [(6, 16)] * 2 + [(12, 16)] * 2
    for index, found in enumerate(together):
        prompt = index // 2
        alone = latents(
            pipeline,
            PROMPTS[prompt],
            negative_prompt=negative[prompt],
            height=SIZES["height"][prompt],
            width=48,
            seed=5 + index,
        )
        assert max_error(alone[0], found) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_at_a_time_is_alone_to_the_bit(dtype: torch.dtype) -> None:
    own = LensPipeline.from_pretrained(NANO, dtype=dtype)
    own.set_progress_bar_config(disable=True)
    prompts = ["a red cup", "two green apples left of a yellow star on a pink background"]
    told = {"num_inference_steps": 4, "height": 64, "width": 64, "output_type": "pt"}
    alone = torch.cat([own(p, seed=s, **told).images for p, s in zip(prompts, (5, 6), strict=True)])
    apart = own(prompts, seed=5, batch_size=1, **told).images
    assert torch.equal(apart, alone)
    together = own(prompts, seed=5, **told).images
    most, mean = (0.35, 0.02) if dtype is torch.bfloat16 else (1.5 / 255, 1e-4)
    assert (together - alone).abs().max() < most
    assert (together - alone).abs().mean() < mean


def test_batches_are_as_large_as_asked_for(pipeline: LensPipeline) -> None:
    rows: list[tuple[int, ...]] = []
    arguments = {"seed": 3, "num_images_per_prompt": 2, "num_inference_steps": 1}

    def listen(report: StepReport) -> None:
        rows.append(report.rows)

    found = latents(pipeline, PROMPTS, batch_size=4, on_step=listen, **arguments)
    assert rows == [(0, 1, 2, 3), (4, 5)]
    assert max_error(found, latents(pipeline, PROMPTS, **arguments)) < 1e-5
    noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    given = {"num_images_per_prompt": 2, "latents": noise}
    whole = latents(pipeline, PROMPTS, **given)
    assert max_error(latents(pipeline, PROMPTS, batch_size=1, **given), whole) < 1e-5
    pictures = pipeline(PROMPTS, seed=3, batch_size=2, output_type="np").images
    assert pictures.shape[0] == len(pipeline(PROMPTS, seed=3, batch_size=1).images) == 3
    with pytest.raises(ParameterError, match="batch_size 0"):
        pipeline(PROMPTS, batch_size=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"on_step": 5}, "on_step 5 must be a function"),
        ({"cancel": 5}, "cancel 5 must be a threading.Event"),
        ({"generator": "x"}, "generator 'x' must be a torch.Generator"),
        ({"size": 5}, "size 5 must be a name"),
        ({"negative_prompt": 3}, "negative_prompt 3 must be"),
        ({"callback_on_step_end": lambda *_: 5}, "returned 5"),
        ({"callback_on_step_end": lambda *_: {"latents": 5}}, "returned latents 5"),
        (
            {"callback_on_step_end": lambda *a: {"latents": a[3]["latents"].half()}},
            "float16",
        ),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(
    pipeline: LensPipeline, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(LensCoreError, match=said):
        pipeline("a red cup", **wrong)


def test_forms_of_a_mixed_result(pipeline: LensPipeline) -> None:
    pictures = pipeline(PROMPTS, seed=0, **SIZES).images
    assert [picture.size for picture in pictures] == [(48, 64), (48, 32), (48, 64)]
    arrays = pipeline(PROMPTS, seed=0, output_type="np", **SIZES).images
    for picture, array in zip(pictures, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.round(array * 255))
    tensors = pipeline(PROMPTS, seed=0, output_type="pt", **SIZES).images
    assert [tuple(one.shape) for one in tensors] == [(3, 64, 48), (3, 32, 48), (3, 64, 48)]
    named = pipeline(PROMPTS, seed=0, size=["48x64", "48x32", "48x64"]).images
    assert all(np.array_equal(a, b) for a, b in zip(named, pictures, strict=True))
    noise = [torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (12, 6, 12)]
    given = latents(pipeline, PROMPTS, latents=noise, **SIZES)
    alone = latents(pipeline, PROMPTS[1], latents=noise[1][None], height=32, width=48)
    assert max_error(given[1], alone[0]) < 1e-5


def test_a_seed_stands_for_a_generator_of_its_own(pipeline: LensPipeline) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    expected = latents(pipeline, PROMPTS[:2], generator=generators)
    assert torch.equal(latents(pipeline, PROMPTS[:2], seed=4), expected)
    assert torch.equal(latents(pipeline, PROMPTS[:2], seed=[4, 5]), expected)


BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"size": "16:9", "height": 64}, ParameterError, "not both"),
    ({"size": "big"}, InvalidSizeError, "'big'"),
    ({"size": []}, ParameterError, "empty"),
    ({"height": [64, 32]}, InvalidSizeError, "2 sizes for 3 prompts"),
    ({"height": [64, 32], "width": [48, 48, 48]}, ParameterError, "height has 2"),
    ({"height": [64, 50, 64]}, InvalidSizeError, "height 50"),
    ({"seed": [1, 2]}, ParameterError, "list of 2"),
    ({"seed": -1}, ParameterError, "seed -1"),
    ({"seed": 1.5}, ParameterError, r"seed 1\.5"),
    ({"seed": 1, "generator": torch.Generator()}, ParameterError, "not both"),
    ({"latents": torch.zeros(3, 12, 16), **SIZES}, ParameterError, "list of 3"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_a_bad_batch_names_the_value(
    pipeline: LensPipeline, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline(PROMPTS, **arguments)


def test_steps_are_reported_size_by_size(pipeline: LensPipeline) -> None:
    reports: list[StepReport] = []
    found = latents(pipeline, PROMPTS, seed=0, on_step=reports.append, **SIZES)
    assert [(r.step, r.total, r.rows, r.height) for r in reports] == [
        (1, 2, (0, 2), 64),
        (2, 2, (0, 2), 64),
        (1, 2, (1,), 32),
        (2, 2, (1,), 32),
    ]
    assert reports[0].sigma > 0 == reports[1].sigma
    assert torch.equal(reports[1].estimate, reports[1].latents)
    assert torch.equal(reports[1].latents[1], found[2])
    assert [picture.size for picture in reports[0].previews()] == [(12, 16)] * 2
    assert [picture.size for picture in reports[2].pictures()] == [(48, 32)]


def test_an_estimate_is_what_one_long_step_would_give(pipeline: LensPipeline) -> None:
    reports: list[StepReport] = []
    latents(pipeline, "a cup", seed=0, num_inference_steps=4, on_step=reports.append)
    # With the velocity of the first step all the way, from noise at sigma 1.
    noise = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
    velocity = (noise - reports[0].latents) / (1 - reports[0].sigma)
    assert max_error(reports[0].estimate, noise - velocity) < 1e-4


def test_cancelling_keeps_what_exists(pipeline: LensPipeline) -> None:
    whole = pipeline(PROMPTS, seed=0, **SIZES).images
    cancel = threading.Event()

    def on_step(report: StepReport) -> None:
        if report.rows == (1,):
            thread = threading.Thread(target=cancel.set)
            thread.start()
            thread.join()

    with pytest.raises(SamplingCancelledError, match="after step 1 of 2") as caught:
        pipeline(PROMPTS, seed=0, on_step=on_step, cancel=cancel, **SIZES)
    first, second, third = caught.value.images
    assert second is None
    assert np.array_equal(first, whole[0])
    assert np.array_equal(third, whole[2])
    assert caught.value.under_way is not None
    assert caught.value.under_way.rows == (1,)
    assert isinstance(caught.value.under_way.pictures()[0], Image.Image)
    with pytest.raises(SamplingCancelledError, match="after step 0") as at_once:
        pipeline("a cup", cancel=cancel)
    assert at_once.value.under_way is None
    assert at_once.value.images == (None,)
    cancel.clear()
    assert len(pipeline("a cup", cancel=cancel).images) == 1


def test_interrupting_leaves_later_sizes_out(pipeline: LensPipeline) -> None:
    def stop(pipe: LensPipeline, *_: Any) -> dict[str, Tensor]:
        pipe.interrupt = True
        return {}

    pictures = pipeline(PROMPTS, seed=0, callback_on_step_end=stop, **SIZES).images
    assert pictures[1] is None
    assert pictures[0].size == pictures[2].size == (48, 64)


def test_previews_show_what_the_nano_autoencoder_would_decode() -> None:
    vae = load_vae(NANO / "vae")
    rng = np.random.default_rng(11)
    scenes = to_pixels([render(sample_scene(rng, size=(128, 128))) for _ in range(6)])
    with torch.no_grad():
        tokens = encode_pixels(scenes, vae)
    small = torch.nn.functional.adaptive_avg_pool2d(scenes / 2 + 0.5, (32, 32))
    flat = (small - small.mean((2, 3), keepdim=True)).square().mean()
    packaged, fitted = find_preview_map(NANO), fit_preview_map(vae)
    assert packaged is not None
    for preview, share in ((packaged, 0.25), (fitted, 0.4)):
        error = (preview.pixels(tokens, 8, 8) - small).square().mean()
        assert error < share * flat


def test_a_preview_map_travels_with_the_checkpoint(pipeline: LensPipeline, tmp_path: Path) -> None:
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    pipeline.preview_map = PreviewMap(weight, torch.zeros(48))
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = LensPipeline.from_pretrained(tmp_path / "saved")
    assert max_error(loaded.preview_map.weight, weight) < 1e-5
    (tmp_path / "saved" / "vae" / FILE_NAME).write_text('{"weight": [[1, 2]]}')
    with pytest.raises(CheckpointError, match="not a preview map"):
        LensPipeline.from_pretrained(tmp_path / "saved")
    with pytest.raises(ParameterError, match="square cells"):
        PreviewMap(torch.zeros(16, 5), torch.zeros(5))
