"""Every faster path against the plain one: errors, and what is no longer computed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from golden_components import GOLDEN, max_error, read_json
from lens_core import ComponentError, ParameterError
from lens_core.bench import flops
from lens_core.bench.configs import bench_config, random_text_encoder
from lens_core.memory.transfer import DirectTransfer
from lens_core.pipeline import LensPipeline
from lens_core.speed import EXACT, FAST, PLAIN, SpeedPlan, accelerate
from lens_core.speed.accelerate import accelerate_transformer
from lens_core.transformer import LensTransformer2DModel
from tiny_components import tiny_pipeline, tiny_transformer
from torch_operations import Operations

FACTOR = 1.5
"""How much further from float32 a faster path in bfloat16 may be than the plain one in bfloat16."""


def relative(found: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(found.double() - expected.double())
    return float(difference / torch.linalg.vector_norm(expected.double()))


def pictures(pipeline: LensPipeline, **arguments: Any) -> Tensor:
    settings = {"guidance_scale": 3.0, "output_type": "pt", "seed": 3} | arguments
    return pipeline("two red apples", **settings).images


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Counts operations; of attention kernels it knows only the ones made of matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        yield counter


def golden(dtype: torch.dtype) -> LensTransformer2DModel:
    transformer = LensTransformer2DModel.from_config(read_json("transformer_config.json"))
    transformer.load_state_dict(load_file(GOLDEN / "transformer.safetensors"))
    return transformer.eval().to(dtype)


def mid_size(dtype: torch.dtype) -> LensTransformer2DModel:
    """Deep enough for rounding to add up, with the real heads and rotary axes."""
    torch.manual_seed(0)
    sizes = {"num_layers": 8, "num_attention_heads": 3, "inner_dim": 192, "enc_hidden_dim": 64}
    return LensTransformer2DModel(**sizes).eval().to(dtype)


@torch.no_grad()
def velocity(model: LensTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    config = model.config
    tokens = torch.randn(1, 64, config.in_channels, generator=generator)
    shape = (1, 24, config.enc_hidden_dim)
    features = [torch.randn(shape, generator=generator) * 100 for _ in model.txt_norm]
    model.follow_schedule(torch.tensor([1.0, 0.9081]))
    return model(
        tokens.to(model.dtype),
        [part.to(model.dtype) for part in features],
        None,
        torch.tensor([0.9081]),
        [(1, 8, 8)],
    ).sample.float()


@pytest.mark.parametrize("build", [golden, mid_size])
def test_faster_paths_stay_within_the_plain_path_s_own_error(build: Any) -> None:
    exact = velocity(build(torch.float32))
    model = build(torch.bfloat16)
    accelerate_transformer(model, PLAIN)
    yardstick = relative(velocity(model), exact)
    assert 1e-3 < yardstick < 5e-2
    paths = (SpeedPlan(attention=name) for name in ("_native_math", "_native_flash"))
    for plan in (EXACT, SpeedPlan(fused_mlp=True), *paths):
        accelerate_transformer(model, plan)
        assert relative(velocity(model), exact) <= FACTOR * yardstick
    accelerate_transformer(model, PLAIN)
    assert relative(velocity(model), exact) == yardstick


def test_exact_paths_change_no_bit_of_a_picture_and_can_be_left_again() -> None:
    pipeline = accelerate(tiny_pipeline(), PLAIN)
    plain = pictures(pipeline)
    for plan in (EXACT, "reuse-branches", "modulation-table", SpeedPlan()):
        assert torch.equal(pictures(accelerate(pipeline, plan)), plain)
    # A plan that says nothing of the table leaves it to a memory plan.
    assert pipeline.transformer.modulation_table is not None
    assert torch.equal(pictures(accelerate(pipeline, "plain")), plain)
    assert pipeline.transformer.modulation_table is None
    layout = accelerate(pipeline, SpeedPlan(channels_last_vae=True)).vae.decoder
    assert layout.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert max_error(pictures(pipeline), plain) < 1e-5
    assert torch.equal(pictures(accelerate(pipeline, "plain")), plain)


def test_steps_do_not_repeat_what_the_schedule_and_the_prompt_decide() -> None:
    """A count of operations, which a busy machine does not change."""
    pipeline = tiny_pipeline()
    blocks, steps = len(pipeline.transformer.transformer_blocks), 3
    counts = {}
    for plan in (PLAIN, EXACT):
        accelerate(pipeline, plan)
        pictures(pipeline, num_inference_steps=steps, output_type="latent")
        with Operations() as operations:
            pictures(pipeline, num_inference_steps=steps, output_type="latent")
        counts[plan] = operations.counts
    fewer = counts[PLAIN] - counts[EXACT]
    # Guidance runs two branches, of which only one has text.
    assert fewer["addmm"] == steps * 3 * blocks + (steps - 1)
    assert fewer["silu"] == steps * 3 * blocks
    # The image's table in each branch and the text's; one more cosine per forward is the time's.
    assert fewer["sin"] == fewer["cos"] == 3 * (steps - 1)
    assert counts[EXACT].total() < 0.95 * counts[PLAIN].total()


def test_without_guidance_one_branch_runs_and_never_a_mask() -> None:
    pipeline = tiny_pipeline()
    seen: list[Any] = []
    block = pipeline.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda _module, args: seen.append(args))
    for guidance, branches in ((1.0, 1), (3.0, 2)):
        seen.clear()
        pictures(pipeline, guidance_scale=guidance, num_inference_steps=2)
        assert len(seen) == 2 * branches
        assert all(args[5] is None for args in seen)
        assert sum(args[1] is None for args in seen) == 2 * (branches - 1)


def test_blocks_compile_whole_and_once_for_all_of_their_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captured without breaks; the code generator is left out, as it takes minutes."""
    torch.compiler.reset()  # What other tests compiled decides what is compiled again.
    graphs: list[Any] = []

    def keep(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, *, mode=None, **options: compiled(self, backend=keep, **options),
    )
    pipeline = tiny_pipeline()
    pipeline.transformer = tiny_transformer(num_layers=4)
    plain = pictures(pipeline)
    accelerate(pipeline, FAST)
    assert max_error(pictures(pipeline), plain) < 1e-5
    # Blocks with text, the last of them, blocks without text; and the decoder.
    assert len(graphs) == 4
    accelerate(pipeline, PLAIN)
    assert torch.equal(pictures(pipeline), plain)
    assert len(graphs) == 4


def test_what_cannot_run_is_refused() -> None:
    if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ComponentError, match="fused_qk cannot be used"):
            accelerate(tiny_pipeline(), SpeedPlan(fused_qk=True))
    streamed = tiny_pipeline()
    streamed.transformer.transformer_blocks[0].register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ComponentError, match="one by one"):
        accelerate(streamed, FAST)
    # Kernels are tried before anything is drawn.
    with pytest.raises(ComponentError, match="attention '_native_cudnn' cannot be used on cpu"):
        accelerate(tiny_pipeline(), SpeedPlan(attention="_native_cudnn"))
    with pytest.raises(ParameterError, match="flash_hub"):
        SpeedPlan(attention="flash_hub")
    with pytest.raises(ParameterError, match="reduce-overhead"):
        SpeedPlan(compile_blocks="reduce-overhead")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'warp' must be one of plain, exact, fast"):
        accelerate(tiny_pipeline(), "warp")


def test_a_memory_plan_keeps_its_table_and_says_where_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = tiny_pipeline().apply_memory("12gb", "cpu")
    expected = pictures(pipeline)
    for name in ("plain", "reuse-branches", "exact"):
        accelerate(pipeline, name)
        assert pipeline.transformer.keeps_modulation_table, name
        assert torch.equal(pictures(pipeline), expected)
    accelerate(pipeline.apply_memory("resident", "cpu"), "plain")
    assert not pipeline.transformer.keeps_modulation_table
    asked: list[torch.device] = []
    monkeypatch.setitem(accelerate_transformer.__globals__, "require_fused_qk", asked.append)
    moved = tiny_pipeline().apply_memory(
        "16gb", "meta", transfer=DirectTransfer(torch.device("meta"))
    )
    accelerate(moved, SpeedPlan(fused_qk=True))
    assert asked == [torch.device("meta")]


def test_operations_by_formula_are_those_that_torch_counts() -> None:
    model = tiny_transformer(num_layers=3)
    tokens = torch.randn(2, 20, 16)
    for text in (0, 6):
        features = [torch.randn(2, text, 16) for _ in range(2)] if text else None
        with counted() as counter:
            model(tokens, features, None, torch.tensor([0.5, 0.5]), [(1, 4, 5)])
        assert counter.get_total_flops() == flops.denoiser_flops(model, 20, text, batch=2)
    vae = tiny_pipeline().vae
    with counted() as counter:
        vae.decode(torch.randn(2, 4, 10, 8))
    assert counter.get_total_flops() == flops.decoder_flops(vae, 80 * 64, batch=2)


def test_operations_of_the_text_encoder_by_formula() -> None:
    encoder = random_text_encoder(bench_config("nano"), torch.device("cpu"), torch.float32)
    with counted() as counter:
        encoder.features(torch.randint(0, 1000, (1, 40)), None, (1,))
    found = counter.get_total_flops()
    assert abs(flops.encoder_flops(encoder.config, 40) / found - 1) < 0.02


def test_operations_of_the_published_sizes() -> None:
    with torch.device("meta"):
        model = LensTransformer2DModel()
    # 16.08 and 17.12 TFLOP, and 2.7e9 for the modulations and what is around the blocks.
    assert flops.denoiser_flops(model, 4096, 0) == pytest.approx(16.08e12, rel=2e-3)
    assert flops.denoiser_flops(model, 4096, 200) == pytest.approx(17.12e12, rel=5e-3)
