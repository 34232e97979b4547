"""The Triton kernel that unpacks MXFP4, run by Triton's interpreter, against plain torch."""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set", allow_module_level=True)

from lens_core.checkpoints.formats import mxfp4, mxfp4_triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_code_and_scale_is_unpacked_to_the_bit(dtype: torch.dtype) -> None:
    """All bytes times all scales but the least two, whose values the interpreter rounds to 0."""
    blocks = torch.arange(256, dtype=torch.uint8).repeat(253).view(2, -1, 11, 16)
    scales = torch.arange(2, 255, dtype=torch.uint8).repeat_interleave(16).view(2, -1, 11)
    found = mxfp4_triton.unpack(blocks, scales, dtype)
    plain = mxfp4.unpack(blocks, scales, dtype)
    assert found.shape == plain.shape == (2, 184, 352)
    assert torch.equal(found, plain)
    assert found.abs().max() > 1e38
    slices = mxfp4_triton.unpack(blocks[:, ::7], scales[:, ::7], dtype)
    assert torch.equal(slices, plain[:, ::7])
