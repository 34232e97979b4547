"""The fused norm and rotation of queries and keys, run by Triton's interpreter, against torch.

Triton must be told of its interpreter before it is first imported, so that this needs
`TRITON_INTERPRET=1` in the environment, as `make test-optional` has it.
"""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set", allow_module_level=True)

from lens_core import ComponentError
from lens_core.blocks import LensAttention, project_jointly
from lens_core.rotary import image_positions, rotary_table, text_positions
from lens_core.speed import PLAIN, SpeedPlan
from lens_core.speed.accelerate import accelerate_transformer
from lens_core.speed.fused_qk import project_fused, require_fused_qk
from tiny_components import tiny_transformer

SHAPES = [
    (3, 64, (8, 28, 28), torch.float32),
    # Neither heads nor channels are powers of two.
    (3, 24, (8, 8, 8), torch.float32),
    (3, 64, (8, 28, 28), torch.bfloat16),
]


@pytest.mark.parametrize(("heads", "head_dim", "axes", "dtype"), SHAPES)
@torch.no_grad()
def test_the_kernel_is_as_exact_as_the_plain_path(
    heads: int, head_dim: int, axes: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    attention = LensAttention(heads * head_dim, heads, head_dim)
    for name, parameter in attention.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    image, text = torch.randn(2, 6, heads * head_dim), torch.randn(2, 3, heads * head_dim)
    tables = rotary_table(image_positions(2, 3), axes), rotary_table(text_positions(3, 2, 3), axes)
    exact = project_jointly(attention, image, text, *tables)
    attention.to(dtype)
    for words, table in ((text.to(dtype), tables[1]), (None, None)):
        plain = project_jointly(attention, image.to(dtype), words, tables[0], table)
        fused = project_fused(attention, image.to(dtype), words, tables[0], table)
        for name, one, other, truth in zip("qkv", plain, fused, exact, strict=True):
            assert one.shape == other.shape, name
            truth = truth[:, : one.shape[1]]
            yardstick = float((one - truth).norm() / truth.norm())
            error = float((other - truth).norm() / truth.norm())
            # The interpreter cuts bfloat16 off where GPUs round it.
            allowed = 2.5 * yardstick if dtype == torch.bfloat16 else 1e-6
            assert error <= allowed, (name, error, yardstick)


@torch.no_grad()
def test_to_the_compiler_it_is_one_operation() -> None:
    attention = LensAttention(64, 2, 32)
    image, table = torch.randn(1, 6, 64), rotary_table(image_positions(2, 3), (8, 12, 12))
    plain = project_fused(attention, image, None, table, None)
    whole = torch.compile(project_fused, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, whole(attention, image, None, table, None), plain))


@torch.no_grad()
def test_a_model_computes_with_it_and_leaves_it_again() -> None:
    model = tiny_transformer()
    tokens, features = torch.randn(1, 12, 16), [torch.randn(1, 5, 16) for _ in range(2)]

    def velocity() -> torch.Tensor:
        return model(tokens, features, None, torch.tensor([0.9]), [(1, 3, 4)]).sample

    plain = velocity()
    accelerate_transformer(model, SpeedPlan(fused_qk=True))
    assert all(block.attn.project is project_fused for block in model.transformer_blocks)
    assert torch.allclose(velocity(), plain, atol=1e-5)
    accelerate_transformer(model, PLAIN)
    assert torch.equal(velocity(), plain)


def test_without_the_interpreter_it_needs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ComponentError, match="it runs on CUDA, not on 'cpu'"):
        require_fused_qk(torch.device("cpu"))
