"""Products of all experts at once, by Triton's interpreter, and compiled for real GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GptOssConfig

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set", allow_module_level=True)

from lens_core import packed_experts
from lens_core.checkpoints.formats import mxfp4
from lens_core.checkpoints.formats.mxfp4_triton import LARGEST, TILES, grouped_product, tile_for
from lens_core.grouped_experts import grouped_problem, try_grouped_product
from lens_core.packed_experts import Mxfp4Packing, PackedExperts

FP32 = torch.float32
CPU = torch.device("cpu")


def _packed(experts: int, outputs: int, inputs: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(experts + outputs)
    weights = torch.randn(experts, outputs, inputs, generator=generator) / inputs**0.5
    bias = torch.randn(experts, outputs, generator=generator)
    return (*mxfp4.pack(weights), bias)


@pytest.mark.parametrize(
    ("counts", "outputs", "inputs"),
    [
        ([1], 16, 32),
        ([0, 0, 3, 1], 130, 96),
        ([40, 0, 7, 0, 1], 70, 160),
        ([0, 200, 0], 64, 64),
        ([300, 5], 32, 32),
    ],
)
def test_products_are_those_of_each_expert(counts: list[int], outputs: int, inputs: int) -> None:
    """Experts without rows, with more than a tile holds, and sides that fill no whole tile."""
    blocks, scales, bias = _packed(len(counts), outputs, inputs)
    rows = torch.randn(sum(counts), inputs, generator=torch.Generator().manual_seed(1))
    found = grouped_product(rows, torch.tensor(counts), blocks, scales, bias)
    weights = mxfp4.unpack(blocks, scales)
    parts = zip(rows.split(counts), weights, bias, strict=True)
    expected = torch.cat([torch.nn.functional.linear(*part) for part in parts])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_code_and_every_step_is_read_to_the_bit() -> None:
    """One input is 1 and the others 0, so that a product is a single weight."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 1, 16).repeat(1, 16, 1, 1)
    scales = (torch.arange(256) % 252).to(torch.uint8).view(1, 256, 1)
    found = grouped_product(torch.eye(32), torch.tensor([32]), blocks, scales, torch.zeros(1, 256))
    assert torch.equal(found, mxfp4.unpack(blocks, scales)[0].T)


@pytest.mark.parametrize("tokens", [1, 5, 48])
def test_the_layer_says_what_it_says_one_expert_at_a_time(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GptOssConfig(
        hidden_size=64, intermediate_size=96, num_local_experts=6, num_experts_per_tok=2
    )
    experts = PackedExperts(config, Mxfp4Packing(), Mxfp4Packing())
    for name, rows, columns in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
        blocks, scales, bias = _packed(6, rows, columns)
        getattr(experts, f"{name}_blocks").copy_(blocks)
        getattr(experts, f"{name}_scales").copy_(scales)
        getattr(experts, f"{name}_bias").data = bias
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 64, generator=generator)
    chosen = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(tokens)])
    strengths = torch.rand(tokens, 2, generator=generator)
    with torch.no_grad():
        expected = experts(hidden, chosen, strengths)
        monkeypatch.setattr(packed_experts, "grouped_problem", lambda *_: None)
        assert experts.multiplies_at_once(hidden)
        found = experts(hidden, chosen, strengths)
    assert not experts.multiplies_at_once(hidden.requires_grad_())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_grouped_product(CPU, FP32) is None
    assert "CUDA" in str(grouped_problem(CPU, FP32))
    monkeypatch.setattr(
        "lens_core.checkpoints.formats.mxfp4_triton.grouped_product",
        lambda rows, *_: rows.new_zeros(len(rows), 80),
    )
    assert "wrong by up to" in str(try_grouped_product(CPU, FP32))


def test_tiles_grow_with_the_rows_of_an_expert() -> None:
    bf16 = torch.bfloat16
    assert [tile_for(rows, 32, bf16) for rows in (4, 512, 513, 1316, 2048, 2049)] == [
        TILES[0], TILES[0], TILES[1], TILES[2], TILES[2], LARGEST,
    ]  # fmt: skip
    assert tile_for(2049, 32, FP32) == TILES[0]


def test_every_kernel_compiles_for_real_gpus_and_fits_them() -> None:
    """Triton needs no GPU to compile. What the interpreter takes, the compiler may refuse."""
    script = Path(__file__).parents[1] / "triton_targets.py"
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=clean)
    assert run.returncode == 0, run.stderr[-2000:]
    made = [json.loads(line) for line in run.stdout.splitlines()]
    assert {one["sm"] for one in made} == {80, 90, 120}
    assert {one["kernel"].split(",")[0] for one in made} == {"unpack", "qk", "grouped"}
    assert [one for one in made if one["spilled"]] == []
    # What a block may have on consumer cards.
    assert max(one["shared"] for one in made) <= 99 * 1024
