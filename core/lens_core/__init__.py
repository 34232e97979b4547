"""The Lens model: components, checkpoints, inference and training.

Importing this package loads no torch; the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_core.errors import (
    CheckpointError,
    ComponentError,
    HubUnreachableError,
    InvalidSizeError,
    LensCoreError,
    NonFiniteError,
    ParameterError,
    PrecisionError,
    PromptError,
    SamplingCancelledError,
)

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline, LensPipelineOutput
    from lens_core.text_encoder import LensTextEncoder
    from lens_core.transformer import LensTransformer2DModel

__all__ = [
    "CheckpointError",
    "ComponentError",
    "HubUnreachableError",
    "InvalidSizeError",
    "LensCoreError",
    "LensPipeline",
    "LensPipelineOutput",
    "LensTextEncoder",
    "LensTransformer2DModel",
    "NonFiniteError",
    "ParameterError",
    "PrecisionError",
    "PromptError",
    "SamplingCancelledError",
]

_LAZY = {
    "LensPipeline": "lens_core.pipeline",
    "LensPipelineOutput": "lens_core.pipeline",
    "LensTextEncoder": "lens_core.text_encoder",
    "LensTransformer2DModel": "lens_core.transformer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
