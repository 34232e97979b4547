"""Conversions keep what they computed on disk, not in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lens_core.checkpoints.spool import spool_beside
from lens_core.errors import CheckpointError


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


def test_a_file_that_is_mapped_still_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is told, where the system removes no such file: Windows does not."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use", str(path))

    def fail() -> None:
        with spool_beside(tmp_path / "x.gguf") as spool:
            spool.tensor(torch.ones(3))
            monkeypatch.setattr(Path, "unlink", refuse)
            raise CheckpointError("no room for a tensor")

    with pytest.raises(CheckpointError, match="no room"):
        fail()
