"""Plans that round the denoiser to 8 bits: what is rounded, how far it errs, what is saved."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchao")

from golden_components import case, read_json, write_checkpoint
from lens_core import CheckpointError, LensPipeline, LensTransformer2DModel, ParameterError
from lens_core.memory.footprint import footprint_of, planned_footprint
from lens_core.memory.plan import PLANS, MemoryPlan
from lens_core.memory.quantise import quantise
from lens_core.memory.tensors import cast_parameters, parts_of
from mid_size import LAYERS, mid_transformer
from tiny_components import tiny_pipeline

FACTOR = {"fp8": 8.0, "int8": 3.0}
"""Most that one forward may err, in errors of the same forward in bfloat16."""


def transformer(dtype: torch.dtype = torch.bfloat16) -> LensTransformer2DModel:
    """With weights so large that every block matters."""
    model = mid_transformer()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.5 * layer.in_features**-0.5)
    cast_parameters(model, dtype)
    return model


def forward(model: LensTransformer2DModel) -> Tensor:
    torch.manual_seed(1)
    dtype = model.dtype
    image = torch.randn(1, 64, 16).to(dtype)
    text = [torch.randn(1, 20, 128).to(dtype) for _ in range(4)]
    with torch.no_grad():
        return model(image, text, None, torch.tensor([0.7]), [(1, 8, 8)]).sample.float()


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_error_is_bounded_in_units_of_bfloat16(form: str) -> None:
    exact = forward(transformer(torch.float32))
    yardstick = float((forward(transformer()) - exact).norm())
    rounded = transformer()
    quantise(rounded, form)  # type: ignore[arg-type]
    error = float((forward(rounded) - exact).norm())
    print(f"{form}: {error / float(exact.norm()):.2%} of the velocity, {error / yardstick:.1f} x")
    assert yardstick < error < FACTOR[form] * yardstick


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_only_large_matrices_are_rounded_and_it_is_as_small_as_predicted(form: str) -> None:
    model = transformer()
    predicted = planned_footprint(model, form, False).total  # type: ignore[arg-type]
    quantise(model, form)  # type: ignore[arg-type]
    rounded = {n for n, p in model.named_parameters() if len(list(parts_of(p))) > 1}
    kinds = {name.split(".", 2)[2].removesuffix(".weight") for name in rounded}
    streams = ("img", "txt")
    assert kinds == {
        *(f"attn.{stream}_qkv" for stream in streams),
        "attn.to_out.0",
        "attn.to_add_out",
        *(f"{stream}_mlp.w{number}" for stream in streams for number in (1, 2, 3)),
    }
    assert len(rounded) == LAYERS * 10
    # Scales are in bfloat16 or float32, as the library likes.
    assert footprint_of(model).total == pytest.approx(predicted, rel=0.005)
    with pytest.raises(ParameterError, match="in 8 bits already"):
        quantise(model, form)  # type: ignore[arg-type]


def test_the_6gb_plan_draws_nearly_what_the_published_code_does(
    tmp_path: pytest.TempPathFactory,
) -> None:
    pipeline = LensPipeline.from_pretrained(
        write_checkpoint(tmp_path / "lens"),  # type: ignore[operator]
        memory="6gb",
        device="cpu",
    )
    pipeline.set_progress_bar_config(disable=True)
    arguments = dict(read_json("cases.json")["pipeline"]["turbo"])
    recorded = case("pipeline", "turbo")
    arguments |= {"prompt": arguments.pop("prompts"), "latents": recorded["latents_in"]}
    images = torch.from_numpy(pipeline(**arguments, output_type="np").images)
    difference = (images - recorded["images"]).abs()
    assert 0 < float(difference.mean()) < 0.02
    pipeline.apply_memory("6gb", "cpu")  # Weights are not rounded twice.
    with pytest.raises(ParameterError, match="in 8 bits already"):
        pipeline.apply_memory(MemoryPlan(transformer_weights="int8"), "cpu")
    with pytest.raises(CheckpointError, match="rounded the denoiser"):
        pipeline.save_pretrained(tmp_path / "saved")  # type: ignore[operator]


def test_rounded_weights_stream_too() -> None:
    plan = MemoryPlan(transformer_weights="int8")
    plain = tiny_pipeline().apply_memory(plan, "cpu")
    streamed = tiny_pipeline().apply_memory(replace(plan, transformer="stream"), "cpu")
    pictures = []
    for pipeline in (plain, streamed):
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(1)
        pictures.append(pipeline("a cup", generator=seed, output_type="pt").images)
    assert torch.equal(*pictures)
    assert PLANS["6gb"].transformer_weights == "fp8"
