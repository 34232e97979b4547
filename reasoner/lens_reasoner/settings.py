"""Settings held against what a generator can honour, so that none is silently dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

from lens_reasoner.errors import UnsupportedSettingError
from lens_reasoner.generator import Capabilities, Size
from lens_reasoner.types import GenerationSettings, ImageRequest

RATIO_TOLERANCE = 0.10
"""Largest relative difference between an aspect ratio asked for and the one drawn."""


def settings_for(
    request: ImageRequest, capabilities: Capabilities, *, backend: str
) -> GenerationSettings:
    """The settings a request means for one generator, checked.

    An aspect ratio becomes the nearest of the generator's sizes, or, where it draws any size, one
    of about its native area.

    Raises:
        UnsupportedSettingError: Naming the setting, its value and what the backend supports.
    """
    if request.seed is not None and not capabilities.seed:
        _refuse("seed", request.seed, "it takes no seed", backend)
    width, height = request.width, request.height
    if request.aspect_ratio is not None:
        width, height = _size_of_ratio(request.aspect_ratio, capabilities, backend)
    settings = GenerationSettings(
        width=width,
        height=height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt,
    )
    check_settings(settings, capabilities, backend=backend)
    return settings


def _size_of_ratio(text: str, capabilities: Capabilities, backend: str) -> Size:
    wide, high = (int(part) for part in text.split(":"))
    ratio = wide / high
    native = capabilities.native_size
    known = capabilities.preferred_sizes or capabilities.sizes or ((native,) if native else ())

    def error(size: Size) -> float:
        return math.exp(abs(math.log(size[0] / size[1] / ratio))) - 1

    nearest = min(known, key=error, default=None)
    if nearest is not None and error(nearest) <= RATIO_TOLERANCE:
        return nearest
    if capabilities.sizes is None and native is not None:
        unit, area = capabilities.multiple_of, native[0] * native[1]
        computed = (_snap(math.sqrt(area * ratio), unit), _snap(math.sqrt(area / ratio), unit))
        if error(computed) <= RATIO_TOLERANCE:
            return computed
    sizes = ", ".join(f"{w}x{h}" for w, h in known) or "one size of its own"
    return _refuse("aspect_ratio", text, f"it draws {sizes}", backend)


def _snap(length: float, unit: int) -> int:
    return max(1, round(length / unit)) * unit


def check_settings(
    settings: GenerationSettings, capabilities: Capabilities, *, backend: str
) -> None:
    """Refuse settings the backend cannot honour, so that none is silently dropped.

    Raises:
        UnsupportedSettingError: Naming the setting, its value and what the backend supports.
    """
    if settings.num_inference_steps is not None and not capabilities.steps:
        _refuse(
            "num_inference_steps", settings.num_inference_steps, "its steps cannot be set", backend
        )
    if settings.guidance_scale is not None and not capabilities.guidance:
        _refuse("guidance_scale", settings.guidance_scale, "its guidance cannot be set", backend)
    if settings.negative_prompt and not capabilities.negative_prompt:
        _refuse("negative_prompt", settings.negative_prompt, "it takes no negative prompt", backend)
    for key, value in settings.extra.items():
        if key not in capabilities.extra:
            known = list(capabilities.extra) or "no extra settings"
            _refuse(key, value, f"it understands {known}", backend)
    if settings.width is not None or settings.height is not None:
        problem = _size_problem(settings.width, settings.height, capabilities)
        if problem:
            _refuse("size", f"{settings.width}x{settings.height}", problem, backend)


def _refuse(setting: str, value: object, rule: str, backend: str) -> NoReturn:
    raise UnsupportedSettingError(
        f"{setting}={value!r} cannot be honoured by {backend!r}: {rule}.",
        setting=setting,
        value=value,
        backend=backend,
        hint=f"Leave {setting} out, change it, or choose another generator.",
    )


def _size_problem(width: int | None, height: int | None, capabilities: Capabilities) -> str:
    if width is None or height is None:
        return "width and height are given together or not at all"
    if (width, height) == capabilities.native_size:
        return ""
    if capabilities.sizes is None:
        unit = capabilities.multiple_of
        return "" if width % unit == height % unit == 0 else f"both must be multiples of {unit}"
    if not capabilities.sizes:
        return "its size cannot be chosen"
    known = ", ".join(f"{w}x{h}" for w, h in capabilities.sizes)
    return "" if (width, height) in capabilities.sizes else f"it draws {known}"


def check_seeds(seeds: Sequence[int], capabilities: Capabilities, *, backend: str) -> None:
    """Refuse an empty list of seeds or one longer than a call allows.

    Raises:
        UnsupportedSettingError: Naming the number asked for and the most allowed.
    """
    if not 1 <= len(seeds) <= capabilities.max_images:
        raise UnsupportedSettingError(
            f"{len(seeds)} seeds were given to {backend!r}, which draws 1 to "
            f"{capabilities.max_images} pictures in one call.",
            setting="seeds",
            value=len(seeds),
            backend=backend,
            hint="Split the seeds over several calls.",
        )
