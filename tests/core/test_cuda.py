"""What only a GPU can show of the paths that the other tests go through on a processor.

Skipped without one. `LENS_TEST_DEVICE=cpu` runs them on the processor, so that a change of these
tests can be tried; compiled plans then take minutes.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_components import case, max_error, read_json
from lens_core import LensPipeline
from lens_core.bench.accuracy import measure_accuracy
from lens_core.bench.configs import bench_config, random_pipeline
from lens_core.bench.forward import branch_forward
from lens_core.checkpoints.formats import mxfp4
from lens_core.grouped_experts import grouped_problem
from lens_core.memory.plan import PLANS as MEMORY_PLANS
from lens_core.speed import accelerate, named_plan
from lens_core.speed.fp8 import fp8_problem
from lens_core.speed.fused_qk import fused_qk_problem
from lens_core.speed.plan import PLANS as SPEED_PLANS
from lens_core.transformer import LensTransformer2DModel
from mid_size import mid_pipeline

DEVICE = torch.device(os.environ.get("LENS_TEST_DEVICE", "cuda"))
LOSSLESS = [name for name, plan in MEMORY_PLANS.items() if plan.transformer_weights == "full"]
BF16 = torch.bfloat16

pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"
)


@pytest.fixture(scope="module")
def mid() -> LensPipeline:
    """44 M parameters of random weights, made on the device in bfloat16."""
    return random_pipeline(bench_config("mid"), DEVICE, BF16)


def draw(pipeline: LensPipeline, **changes: Any) -> Tensor:
    told = {"prompt": "a lamp", "height": 256, "width": 256, "num_inference_steps": 3}
    images = pipeline(**told, guidance_scale=3.0, seed=7, output_type="pt", **changes).images
    assert isinstance(images, Tensor)
    return images.float().cpu()


@pytest.mark.parametrize("name", ["lens", "negative", "turbo"])
def test_pictures_agree_with_the_published_code(
    golden_checkpoint: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Convolutions would otherwise round to 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pipeline = LensPipeline.from_pretrained(golden_checkpoint).to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    arguments = dict(read_json("cases.json")["pipeline"][name])
    recorded = case("pipeline", name)
    arguments |= {"prompt": arguments.pop("prompts"), "latents": recorded["latents_in"]}
    images = torch.from_numpy(pipeline(**arguments, output_type="np").images)
    assert max_error(images, recorded["images"]) < 1e-3


@pytest.mark.parametrize("name", [name for name in SPEED_PLANS if name != "plain"])
def test_no_faster_path_is_less_exact_than_stated(mid: LensPipeline, name: str) -> None:
    plan = named_plan(name)
    problem = fp8_problem(DEVICE, BF16) if plan.fp8 is not None else None
    problem = fused_qk_problem(DEVICE) if plan.fused_qk else problem
    if problem is not None:
        pytest.skip(problem)
    features, _ = mid.encode_prompt("a lamp beside a window")

    def run(model: LensTransformer2DModel) -> Tensor:
        return branch_forward(model, [*features], (16, 16), 1, DEVICE)()

    accelerate(mid, "plain")
    assert measure_accuracy(mid.transformer, plan, run).factor < (1.5 if plan.fp8 is None else 6)


@pytest.mark.parametrize("name", ["exact", "fast", "graphs"])
def test_a_plan_draws_the_same_picture_again_and_again(mid: LensPipeline, name: str) -> None:
    """Graphs are recorded at a shape's second call; another prompt in between changes nothing."""
    accelerate(mid, name)
    try:
        first = draw(mid)
        draw(mid, negative_prompt="blurry")
        assert torch.equal(draw(mid), first)
        assert torch.equal(draw(mid), first)
    finally:
        accelerate(mid, "plain")


@pytest.mark.parametrize("name", LOSSLESS)
def test_memory_plans_draw_the_same_picture(name: str) -> None:
    pipeline = mid_pipeline()
    pipeline.apply_memory("resident", DEVICE)
    expected = draw(pipeline)
    # This pipeline's text encoder could not be loaded again.
    pipeline.apply_memory(replace(MEMORY_PLANS[name], free_text_encoder=False), DEVICE)
    for _ in range(2):
        assert max_error(draw(pipeline), expected) < 1e-5


def test_all_experts_at_once_say_what_each_says_alone(mid: LensPipeline) -> None:
    if not mxfp4.has_triton() or DEVICE.type != "cuda":
        pytest.skip("there is no Triton")
    assert grouped_problem(DEVICE, BF16) is None
    assert grouped_problem(DEVICE, torch.float32) is None
    encoder = mid.text_encoder
    assert encoder is not None
    found, _ = mid.encode_prompt("a lamp beside a window")
    encoder.unpack_one_by_one(True)
    try:
        expected, _ = mid.encode_prompt("a lamp beside a window")
    finally:
        encoder.unpack_one_by_one(False)
    distance = torch.linalg.vector_norm((found - expected).float())
    assert distance < 0.02 * torch.linalg.vector_norm(expected.float())
