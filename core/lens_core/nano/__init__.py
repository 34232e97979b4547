"""A procedural image world with exact ground truth, for models small enough to ship."""

from lens_core.nano.captions import brief_caption, dense_caption, metadata
from lens_core.nano.checks import AtomicCheck, CheckResult, Observation, atomic_checks, observe
from lens_core.nano.detector import Detection, detect, detect_background
from lens_core.nano.drawing import occupancy, render, token_labels
from lens_core.nano.evaluation import (
    EvalResult,
    NanoEvalReport,
    TaskScore,
    evaluate,
    nano_eval_prompts,
)
from lens_core.nano.requests import parse_request
from lens_core.nano.sampling import TRAINING_SIZES, sample_scene
from lens_core.nano.scenes import Background, Scene, SceneObject
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, POSITIONS, REGIONS, TASKS

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLORS",
    "POSITIONS",
    "REGIONS",
    "TASKS",
    "TRAINING_SIZES",
    "AtomicCheck",
    "Background",
    "CheckResult",
    "Detection",
    "EvalResult",
    "NanoEvalReport",
    "Observation",
    "Scene",
    "SceneObject",
    "TaskScore",
    "atomic_checks",
    "brief_caption",
    "dense_caption",
    "detect",
    "detect_background",
    "evaluate",
    "metadata",
    "nano_eval_prompts",
    "observe",
    "occupancy",
    "parse_request",
    "render",
    "sample_scene",
    "token_labels",
]
