"""Checking settings against a generator's capabilities, so that none is silently dropped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from lens_reasoner.errors import UnsupportedSettingError, UnsupportedSettingWarning
from lens_reasoner.generator import (
    Capabilities,
    Generator,
    OnUnsupported,
    SettingsChecker,
    Size,
)
from lens_reasoner.types import GenerationSettings, ImageRequest

RATIO_TOLERANCE = 0.10
"""Maximum relative difference between the requested aspect ratio and the generated one."""

Rules = Callable[[GenerationSettings], Mapping[str, str]]
"""Signature of `SettingsChecker.broken_rules`."""


def honoured_settings(
    request: ImageRequest, generator: Generator, on_unsupported: OnUnsupported | None = None
) -> GenerationSettings:
    """`settings_for` a generator, including its own rules if it has any."""
    return settings_for(
        request,
        generator.capabilities,
        backend=generator.name,
        on_unsupported=on_unsupported,
        rules=rules_of(generator),
    )


def rules_of(generator: Generator) -> Rules | None:
    """The generator's own rules beyond its capabilities; None if it has none."""
    return generator.broken_rules if isinstance(generator, SettingsChecker) else None


def settings_for(
    request: ImageRequest,
    capabilities: Capabilities,
    *,
    backend: str,
    on_unsupported: OnUnsupported | None = None,
    rules: Rules | None = None,
) -> GenerationSettings:
    """Convert a request to checked settings for one generator.

    An aspect ratio becomes the closest of the generator's sizes or, if it supports any size, one of
    about its native area.

    Args:
        request: The request.
        capabilities: What the generator supports.
        backend: Name of the generator.
        on_unsupported: What to do with unsupported settings; None follows `capabilities`.
        rules: See `check_settings`.

    Raises:
        UnsupportedSettingError: The message names the setting, its value and what is supported.
    """
    if on_unsupported is not None:
        capabilities = capabilities.model_copy(update={"on_unsupported": on_unsupported})
    width, height = request.width, request.height
    dropped: dict[str, JsonValue] = {}
    if request.seed is not None and not capabilities.seed:
        _drop(dropped, "seed", request.seed, "it takes no seed", capabilities, backend)
    if request.aspect_ratio is not None:
        size = _size_of_ratio(request.aspect_ratio, capabilities)
        if isinstance(size, str):
            _drop(dropped, "aspect_ratio", request.aspect_ratio, size, capabilities, backend)
        else:
            width, height = size
    settings = GenerationSettings(
        width=width,
        height=height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt,
        extra=request.extra,
        dropped=dropped,
    )
    return check_settings(settings, capabilities, backend=backend, rules=rules)


def _size_of_ratio(text: str, capabilities: Capabilities) -> Size | str:
    """The size for an aspect ratio, or the rule that prevents it."""
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
    return f"it draws {sizes}"


def _snap(length: float, unit: int) -> int:
    return max(1, round(length / unit)) * unit


def check_settings(
    settings: GenerationSettings,
    capabilities: Capabilities,
    *,
    backend: str,
    rules: Rules | None = None,
) -> GenerationSettings:
    """Check settings against what the generator supports, so that none is silently dropped.

    Args:
        settings: The requested settings.
        capabilities: What the generator supports.
        backend: Name of the generator.
        rules: Further rules, for the values of supported settings.

    Returns:
        The settings. If the generator only warns, unsupported ones are removed and listed in
        `dropped`.

    Raises:
        UnsupportedSettingError: The message names the setting, its value and what is supported.
    """
    dropped = dict(settings.dropped)
    cleared: dict[str, object] = {}

    def drop(name: str, value: JsonValue, rule: str, **fields: object) -> None:
        _drop(dropped, name, value, rule, capabilities, backend)
        cleared.update(fields)

    steps, guidance = settings.num_inference_steps, settings.guidance_scale
    if steps is not None and not capabilities.steps:
        drop("num_inference_steps", steps, "its steps cannot be set", num_inference_steps=None)
    if guidance is not None and not capabilities.guidance:
        drop("guidance_scale", guidance, "its guidance cannot be set", guidance_scale=None)
    if settings.negative_prompt and not capabilities.negative_prompt:
        text = settings.negative_prompt
        drop("negative_prompt", text, "it takes no negative prompt", negative_prompt="")
    known = list(capabilities.extra) or "no extra settings"
    unknown = settings.extra.keys() - set(capabilities.extra)
    broken = dict(rules(settings.model_copy(update=cleared))) if rules is not None else {}
    broken |= dict.fromkeys(sorted(unknown), f"it understands {known}")
    kept = {name: value for name, value in settings.extra.items() if name not in broken}
    for name, rule in broken.items():
        if name in settings.extra:
            drop(name, settings.extra[name], rule, extra=kept)
        elif name not in cleared:
            default = GenerationSettings.model_fields[name].default
            drop(name, getattr(settings, name), rule, **{name: default})
    if settings.width is not None or settings.height is not None:
        problem = _size_problem(settings.width, settings.height, capabilities)
        if problem:
            size = f"{settings.width}x{settings.height}"
            drop("size", size, problem, width=None, height=None)
    return settings.model_copy(update={**cleared, "dropped": dropped}) if cleared else settings


def _drop(
    dropped: dict[str, JsonValue],
    setting: str,
    value: JsonValue,
    rule: str,
    capabilities: Capabilities,
    backend: str,
) -> None:
    message = f"{setting}={value!r} is not supported by {backend!r}: {rule}."
    if capabilities.on_unsupported == "raise":
        raise UnsupportedSettingError(
            message,
            setting=setting,
            value=value,
            backend=backend,
            hint=f"Leave {setting} out, change it, or choose another generator.",
        )
    warnings.warn(f"{message} It is left out.", UnsupportedSettingWarning, stacklevel=4)
    dropped[setting] = value


def _size_problem(width: int | None, height: int | None, capabilities: Capabilities) -> str:
    if width is None or height is None:
        return "width and height are given together or not at all"
    if (width, height) == capabilities.native_size:
        return ""
    if capabilities.sizes is None:
        return _free_size_problem(width, height, capabilities)
    if not capabilities.sizes:
        return "its size cannot be chosen"
    known = ", ".join(f"{w}x{h}" for w, h in capabilities.sizes)
    return "" if (width, height) in capabilities.sizes else f"it draws {known}"


def _free_size_problem(width: int, height: int, capabilities: Capabilities) -> str:
    unit, limits = capabilities.multiple_of, capabilities.size_limits
    if not width % unit == height % unit == 0:
        return f"both must be multiples of {unit}"
    if limits is None or (width, height) in limits.besides:
        return ""
    if max(width, height) > limits.longest_edge:
        return f"no edge may be longer than {limits.longest_edge}"
    if not limits.fewest_pixels <= width * height <= limits.most_pixels:
        least = "at most" if limits.fewest_pixels == 1 else f"{limits.fewest_pixels} to"
        return f"it draws {least} {limits.most_pixels} pixels"
    if max(width, height) > limits.widest_ratio * min(width, height):
        return f"the longer edge may be at most {limits.widest_ratio:g} times the other"
    return ""


def check_seeds(seeds: Sequence[int], capabilities: Capabilities, *, backend: str) -> None:
    """Refuse an empty list of seeds, or one that is too long for one call.

    Raises:
        UnsupportedSettingError: The number of seeds is not supported.
    """
    if not 1 <= len(seeds) <= capabilities.max_images:
        raise UnsupportedSettingError(
            f"{len(seeds)} seeds were given to {backend!r}, which draws 1 to "
            f"{capabilities.max_images} images in one call.",
            setting="seeds",
            value=len(seeds),
            backend=backend,
            hint="Split the seeds over several calls.",
        )
