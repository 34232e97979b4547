"""The values that options choose from, known without importing what they choose."""

from __future__ import annotations

from enum import StrEnum


class Memory(StrEnum):
    """Names of memory plans."""

    AUTO = "auto"
    RESIDENT = "resident"
    GB24 = "24gb"
    GB16 = "16gb"
    GB12 = "12gb"
    GB8 = "8gb"
    GB6 = "6gb"
    GB4 = "4gb"


class Device(StrEnum):
    """Where is computed; auto is the GPU where there is one."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Dtype(StrEnum):
    """Number formats of weights."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Gpu(StrEnum):
    """GPUs that trainings are planned for."""

    A100 = "a100"
    H100 = "h100"
    H200 = "h200"


class Strategy(StrEnum):
    """Ways to search for a system prompt."""

    FACTORIAL = "factorial"
    REWRITE = "rewrite"
    PARETO = "pareto"
    EXAMPLES = "examples"
    RANDOM = "random"
    BEAM = "beam"
    GEPA = "gepa"


class Prompts(StrEnum):
    """What a benchmark draws."""

    DENSE = "dense"
    BRIEF = "brief"
    REASONED = "reasoned"


class Format(StrEnum):
    """Picture files in shards."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"


class Crop(StrEnum):
    """Which part of a picture is kept."""

    CENTRE = "centre"
    TOP = "top"
    RANDOM = "random"


class Problem(StrEnum):
    """What may be wrong with a source picture."""

    UNREADABLE_IMAGE = "unreadable_image"
    MISSING_CAPTION = "missing_caption"
    UNFIT_IMAGE = "unfit_image"
