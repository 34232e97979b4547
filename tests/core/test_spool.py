"""Conversions keep what they computed on disk, not in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lens_core.checkpoints.spool import spool_beside


def test_what_comes_back_is_what_went_in_and_nothing_stays(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.safetensors"
    values = {
        "odd": torch.arange(7, dtype=torch.uint8),
        "turned": torch.randn(5, 3).bfloat16().T,
        "eight": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "one": torch.tensor(3),
        "none": torch.empty(0, 4),
    }
    with spool_beside(target) as spool:
        found = dict(spool.tensors(values.items()))
        assert isinstance(spool.array(np.ones(3)), np.memmap)
        for name, expected in values.items():
            assert found[name].dtype == expected.dtype
            assert found[name].shape == expected.shape
            assert torch.equal(found[name].float(), expected.float()), name
    assert list(target.parent.iterdir()) == []


def test_a_conversion_that_fails_leaves_nothing_either(tmp_path: Path) -> None:
    def fail() -> None:
        with spool_beside(tmp_path / "x.gguf") as spool:
            spool.tensor(torch.ones(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
