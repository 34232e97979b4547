"""Rewrite, generate, judge and revise, for any image generator."""

from lens_reasoner.blocking import BlockingGenerator, FunctionGenerator, GenerationCancelled
from lens_reasoner.errors import (
    ChatError,
    GeneratorError,
    ImageFileError,
    JudgeError,
    LoopConfigError,
    MissingKeyError,
    QuotaError,
    RateLimitedError,
    ReasonerError,
    UnsupportedSettingError,
)
from lens_reasoner.generator import (
    Capabilities,
    Generator,
    StepCallback,
    StepProgress,
    check_seeds,
    check_settings,
)
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge
from lens_reasoner.reasoner import PassThrough, Reasoner
from lens_reasoner.rubric import RubricWriter
from lens_reasoner.types import (
    Criterion,
    CriterionVerdict,
    GenerationSettings,
    ImageRequest,
    Refused,
    Rewrite,
    Rubric,
    Usage,
    Verdict,
)

__all__ = [
    "BlockingGenerator",
    "Capabilities",
    "ChatError",
    "Criterion",
    "CriterionVerdict",
    "FunctionGenerator",
    "GeneratedImage",
    "GenerationCancelled",
    "GenerationSettings",
    "Generator",
    "GeneratorError",
    "ImageFileError",
    "ImageRequest",
    "Judge",
    "JudgeError",
    "LoopConfigError",
    "MissingKeyError",
    "PassThrough",
    "QuotaError",
    "RateLimitedError",
    "Reasoner",
    "ReasonerError",
    "Refused",
    "Rewrite",
    "Rubric",
    "RubricWriter",
    "StepCallback",
    "StepProgress",
    "UnsupportedSettingError",
    "Usage",
    "Verdict",
    "check_seeds",
    "check_settings",
]
