"""The fused kernel against the plain projection. Run alone, with `TRITON_INTERPRET=1`."""

import torch

from lens_core.blocks import LensAttention, project_jointly
from lens_core.rotary import image_positions, rotary_table, text_positions
from lens_core.speed.fused_qk import project_fused


@torch.no_grad()
def check(heads: int, head_dim: int, axes: tuple[int, ...], dtype: torch.dtype) -> None:
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
            assert error <= allowed, (name, dtype, error, yardstick)


@torch.no_grad()
def check_compiled() -> None:
    """The kernel is one opaque operation to the compiler."""
    attention = LensAttention(64, 2, 32)
    image, table = torch.randn(1, 6, 64), rotary_table(image_positions(2, 3), (8, 12, 12))
    plain = project_fused(attention, image, None, table, None)
    whole = torch.compile(project_fused, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, whole(attention, image, None, table, None), plain))


if __name__ == "__main__":
    check(3, 64, (8, 28, 28), torch.float32)
    check(4, 24, (8, 8, 8), torch.float32)
    check(3, 64, (8, 28, 28), torch.bfloat16)
    check_compiled()
