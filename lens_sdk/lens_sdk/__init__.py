"""Agentic image generation: rewrite a request, generate images, judge them, keep the best one.

Example:
    ```python
    import lens_sdk

    result = lens_sdk.generate("two red apples left of a blue cup", seed=1, num_images=4)
    result.best.image.save("apples.png")
    ```

Importing this package does not import torch; the names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_reasoner import (
        AgentLoop,
        BlockingGenerator,
        Cache,
        Candidate,
        Capabilities,
        Criterion,
        DiffusersGenerator,
        FunctionGenerator,
        GeneratedImage,
        GenerationSettings,
        Generator,
        ImageRequest,
        ImageServer,
        Judge,
        LLMReasoner,
        LLMRubricWriter,
        LoopLimits,
        LoopResult,
        MissingKeyError,
        OpenAIChat,
        OpenAIImages,
        Reasoner,
        ReasonerError,
        Rewrite,
        Rubric,
        RubricJudge,
        RubricWriter,
        RunRecord,
        RunStore,
        Verdict,
    )
    from lens_sdk.client.lens import AsyncLens
    from lens_sdk.client.plain import Lens
    from lens_sdk.client.types import Judgement, RunInfo, Timeouts
    from lens_sdk.comparison import Comparison, compare
    from lens_sdk.error_kinds import error_kind
    from lens_sdk.errors import (
        LensError,
        LimitReachedError,
        MissingExtraError,
        PartlyDrawnError,
        SdkError,
        SettingsError,
        UnknownModelError,
        UnknownPartError,
    )
    from lens_sdk.facade import agenerate, generate
    from lens_sdk.generators import choose_generator, local_generator
    from lens_sdk.local import LocalLensGenerator
    from lens_sdk.metadata import read_record, save_candidate
    from lens_sdk.models import LensModel, resolve_model
    from lens_sdk.session import build_loop
    from lens_sdk.settings import Settings

_LAZY = {
    "lens_reasoner": (
        "AgentLoop",
        "BlockingGenerator",
        "Cache",
        "Candidate",
        "Capabilities",
        "Criterion",
        "DiffusersGenerator",
        "FunctionGenerator",
        "GeneratedImage",
        "GenerationSettings",
        "Generator",
        "ImageRequest",
        "ImageServer",
        "Judge",
        "LLMReasoner",
        "LLMRubricWriter",
        "LoopLimits",
        "LoopResult",
        "MissingKeyError",
        "OpenAIChat",
        "OpenAIImages",
        "Reasoner",
        "ReasonerError",
        "Rewrite",
        "Rubric",
        "RubricJudge",
        "RubricWriter",
        "RunRecord",
        "RunStore",
        "Verdict",
    ),
    "lens_sdk.client.lens": ("AsyncLens",),
    "lens_sdk.client.plain": ("Lens",),
    "lens_sdk.client.types": ("Judgement", "RunInfo", "Timeouts"),
    "lens_sdk.comparison": ("Comparison", "compare"),
    "lens_sdk.error_kinds": ("error_kind",),
    "lens_sdk.errors": (
        "LensError",
        "LimitReachedError",
        "MissingExtraError",
        "PartlyDrawnError",
        "SdkError",
        "SettingsError",
        "UnknownModelError",
        "UnknownPartError",
    ),
    "lens_sdk.facade": ("agenerate", "generate"),
    "lens_sdk.generators": ("choose_generator", "local_generator"),
    "lens_sdk.local": ("LocalLensGenerator",),
    "lens_sdk.metadata": ("read_record", "save_candidate"),
    "lens_sdk.models": ("LensModel", "resolve_model"),
    "lens_sdk.session": ("build_loop",),
    "lens_sdk.settings": ("Settings",),
}
_HOMES = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "AgentLoop",
    "AsyncLens",
    "BlockingGenerator",
    "Cache",
    "Candidate",
    "Capabilities",
    "Comparison",
    "Criterion",
    "DiffusersGenerator",
    "FunctionGenerator",
    "GeneratedImage",
    "GenerationSettings",
    "Generator",
    "ImageRequest",
    "ImageServer",
    "Judge",
    "Judgement",
    "LLMReasoner",
    "LLMRubricWriter",
    "Lens",
    "LensError",
    "LensModel",
    "LimitReachedError",
    "LocalLensGenerator",
    "LoopLimits",
    "LoopResult",
    "MissingExtraError",
    "MissingKeyError",
    "OpenAIChat",
    "OpenAIImages",
    "PartlyDrawnError",
    "Reasoner",
    "ReasonerError",
    "Rewrite",
    "Rubric",
    "RubricJudge",
    "RubricWriter",
    "RunInfo",
    "RunRecord",
    "RunStore",
    "SdkError",
    "Settings",
    "SettingsError",
    "Timeouts",
    "UnknownModelError",
    "UnknownPartError",
    "Verdict",
    "agenerate",
    "build_loop",
    "choose_generator",
    "compare",
    "error_kind",
    "generate",
    "local_generator",
    "read_record",
    "resolve_model",
    "save_candidate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
