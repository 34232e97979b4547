"""Rotation of channel pairs: right to the bit, and of a form that compilers fuse."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lens_core.rotary import apply_rotary, image_positions, rotary_table

AXES = (8, 28, 28)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_are_turned_as_complex_numbers(dtype: torch.dtype) -> None:
    table = rotary_table(image_positions(3, 5), AXES)
    x = torch.randn(2, 15, 4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = (part[:, None, 1::2] for part in table)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    assert torch.equal(apply_rotary(x, table), turned.to(dtype))
    complex_form = torch.view_as_complex(torch.stack((even, odd), dim=-1))
    angles = torch.complex(cos.contiguous(), sin.contiguous())
    expected = torch.view_as_real(complex_form * angles).flatten(-2)
    torch.testing.assert_close(turned, expected)


def test_the_rotation_is_one_pass_over_the_values() -> None:
    """Torch's compiler writes a stack of channels to memory, in float32, before going on with it:
    three passes over queries and keys where one is enough."""
    x, table = torch.randn(1, 6, 2, 64), rotary_table(image_positions(2, 3), AXES)
    graph = make_fx(apply_rotary, tracing_mode="fake")(x, table).graph
    operations = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert "aten.flip.default" in operations
    assert not {one for one in operations if "cat" in one or "stack" in one}
