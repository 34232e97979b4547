"""The packaged model, loaded once."""

import pytest
import torch

from lens_sdk.models import resolve_model
from lens_sdk.runtime import LensRuntime


@pytest.fixture(scope="session")
def runtime() -> LensRuntime:
    torch.set_num_threads(1)
    runtime = LensRuntime(resolve_model())
    runtime.load()
    return runtime
