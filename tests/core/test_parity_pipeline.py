"""The whole pipeline against the published code: features, schedule, every step, the picture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_components import case, max_error, read_json
from lens_core import LensPipeline

ARGUMENTS = read_json("cases.json")["pipeline"]
LATENTS_TOLERANCE = 1e-4
IMAGE_TOLERANCE = 2e-4


@pytest.fixture
def pipeline(golden_pipeline: LensPipeline) -> LensPipeline:
    return golden_pipeline


def run(pipeline: LensPipeline, name: str, **changes: Any) -> tuple[Tensor, list[Tensor]]:
    """The picture and the latents after each step."""
    arguments = dict(ARGUMENTS[name])
    steps: list[Tensor] = []

    def keep(_: LensPipeline, step: int, __: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        assert step == len(steps)
        steps.append(tensors["latents"])
        return {}

    arguments |= {
        "prompt": arguments.pop("prompts"),
        "latents": case("pipeline", name)["latents_in"],
        "callback_on_step_end": keep,
        "output_type": "np",
    }
    images = pipeline(**arguments | changes).images
    return torch.from_numpy(images), steps


@pytest.mark.parametrize("name", ARGUMENTS)
def test_text_features(pipeline: LensPipeline, name: str) -> None:
    golden, arguments = case("pipeline", name), ARGUMENTS[name]
    embeds, mask = pipeline.encode_prompt(arguments["prompts"], date=arguments["date"])
    real = golden["prompt_mask"].bool()
    assert torch.equal(mask, real)
    assert max_error(embeds[:, real], golden["prompt_embeds"][:, real]) < 1e-4


@pytest.mark.parametrize("reference", [False, True], ids=["default", "reference"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_schedule_steps_and_picture(pipeline: LensPipeline, name: str, reference: bool) -> None:
    golden = case("pipeline", name)
    images, steps = run(pipeline, name, reference=reference)
    assert max_error(pipeline.scheduler.sigmas, golden["sigmas"]) < 1e-7
    assert max_error(pipeline.scheduler.timesteps, golden["timesteps"]) < 1e-4
    assert len(steps) == ARGUMENTS[name]["num_inference_steps"]
    for index, latents in enumerate(steps):
        assert max_error(latents, golden[f"step{index}"]) < LATENTS_TOLERANCE, f"step {index}"
    assert max_error(images, golden["images"]) < IMAGE_TOLERANCE


def test_features_computed_earlier_give_the_same_picture(pipeline: LensPipeline) -> None:
    golden = case("pipeline", "negative")
    date = ARGUMENTS["negative"]["date"]
    negative, negative_mask = pipeline.encode_prompt("blurry, low quality", 2, date=date)
    images, _ = run(
        pipeline,
        "negative",
        prompt=None,
        negative_prompt=None,
        prompt_embeds=list(golden["prompt_embeds"]),
        prompt_embeds_mask=golden["prompt_mask"],
        negative_prompt_embeds=negative,
        negative_prompt_embeds_mask=negative_mask,
    )
    assert max_error(images, golden["images"]) < IMAGE_TOLERANCE


def test_the_date_and_the_negative_prompt_change_the_picture(pipeline: LensPipeline) -> None:
    golden = case("pipeline", "negative")["images"]
    dated, _ = run(pipeline, "negative", date="2026-05-23")
    blank, _ = run(pipeline, "negative", negative_prompt=" \n")
    assert max_error(dated, golden) > 2 * IMAGE_TOLERANCE
    assert max_error(blank, golden) > 2 * IMAGE_TOLERANCE


def test_bfloat16_stays_near_float32(pipeline: LensPipeline, golden_checkpoint: Path) -> None:
    half = LensPipeline.from_pretrained(golden_checkpoint, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    exact, _ = run(pipeline, "lens")
    default, steps = run(half, "lens")
    reference, reference_steps = run(half, "lens", reference=True)
    assert {latents.dtype for latents in steps} == {torch.float32}
    assert {latents.dtype for latents in reference_steps} == {torch.bfloat16}
    default_error = float((default - exact).abs().mean())
    reference_error = float((reference - exact).abs().mean())
    assert 0 < default_error < reference_error < 0.05
