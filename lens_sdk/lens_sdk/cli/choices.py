"""The values that options accept, without importing what they choose from."""

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
    """Devices to compute on; auto is the GPU if there is one."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Dtype(StrEnum):
    """Number formats of weights."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Gpu(StrEnum):
    """GPUs that training can be planned for."""

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
    """Kinds of prompts for a benchmark."""

    DENSE = "dense"
    BRIEF = "brief"
    REASONED = "reasoned"


class Format(StrEnum):
    """Formats of images in shards."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"


class Crop(StrEnum):
    """Which part of an image is kept."""

    CENTRE = "centre"
    TOP = "top"
    RANDOM = "random"


class Problem(StrEnum):
    """Possible problems of a source image."""

    UNREADABLE_IMAGE = "unreadable_image"
    MISSING_CAPTION = "missing_caption"
    UNFIT_IMAGE = "unfit_image"
