"""GGML's small blocks unpacked by torch, against the `gguf` package."""

import gguf
import numpy as np
import pytest
import torch

from lens_core.checkpoints.formats import ggml_blocks
from lens_core.packed_experts import GgufPacking


@pytest.mark.parametrize("kind", list(ggml_blocks.KINDS))
def test_values_are_those_of_the_library_to_the_bit(kind: str) -> None:
    """Random bytes: every code, and all scales but those that are not finite."""
    known = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[known]
    assert (block, size) == (32, ggml_blocks.KINDS[kind][0])
    data = np.random.default_rng(3).integers(0, 256, (2, 40, 25 * size), dtype=np.uint8)
    scales = np.random.default_rng(4).normal(size=(2, 40, 25, 2)).astype(np.float16)
    groups = data.reshape(2, 40, 25, size)
    groups[..., :2] = scales[..., :1].view(np.uint8)
    if kind in {"Q4_1", "Q5_1"}:
        groups[..., 2:4] = scales[..., 1:].view(np.uint8)
    expected = torch.from_numpy(gguf.quants.dequantize(data, known))
    found = ggml_blocks.unpack(torch.from_numpy(data), kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    packing = GgufPacking(kind, block, size)
    parts = {"gguf": torch.from_numpy(data)}
    assert torch.equal(packing.unpack(parts, torch.bfloat16), expected.bfloat16())


def test_bytes_stay_where_they_are() -> None:
    """A prompt unpacks every expert: on a GPU, bytes must not travel to the host and back."""
    meta = torch.empty(2880, 90 * 34, dtype=torch.uint8, device="meta")
    found = GgufPacking("Q8_0", 32, 34).unpack({"gguf": meta}, torch.bfloat16)
    assert found.device.type == "meta"
    assert found.shape == (2880, 2880)
