"""The golden checkpoint, written once for all tests that only read it."""

from pathlib import Path

import pytest

from golden_components import write_checkpoint
from lens_core import LensPipeline


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the published folder layout, whose index names classes no library has."""
    return write_checkpoint(tmp_path_factory.mktemp("golden") / "lens")


@pytest.fixture(scope="session")
def golden_pipeline(golden_checkpoint: Path) -> LensPipeline:
    """In float32. Tests leave it as they found it."""
    loaded = LensPipeline.from_pretrained(golden_checkpoint)
    loaded.set_progress_bar_config(disable=True)
    return loaded
