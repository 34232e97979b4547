"""The seam to image generators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from lens_reasoner.errors import UnsupportedSettingError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import GenerationSettings, Value

Size = tuple[int, int]
"""Width and height in pixels."""


class Capabilities(Value):
    """What a generator can honour; the default is a generator that only takes a prompt.

    Attributes:
        seed: Whether the same seed gives the same picture.
        negative_prompt: Whether a negative prompt has an effect.
        steps: Whether `num_inference_steps` can be set.
        guidance: Whether `guidance_scale` can be set.
        native_size: The size drawn when none is asked for; None if unknown.
        sizes: The only sizes it can draw; None means any multiple of `multiple_of`, an empty tuple
            that the size cannot be chosen.
        multiple_of: What width and height must be multiples of, in pixels.
        max_images: Most pictures in one call.
        extra: Names it understands in `GenerationSettings.extra`.
    """

    seed: bool = False
    negative_prompt: bool = False
    steps: bool = False
    guidance: bool = False
    native_size: Size | None = None
    sizes: tuple[Size, ...] | None = ()
    multiple_of: int = Field(default=1, ge=1)
    max_images: int = Field(default=1, ge=1)
    extra: tuple[str, ...] = ()


class StepProgress(Value):
    """One finished sampler step.

    Attributes:
        step: Steps done so far, from 1 to `total`.
        total: Steps of this picture or batch.
        index: Position within the call's `seeds` of the picture, or of the batch's first one.
    """

    step: int = Field(ge=1)
    total: int = Field(ge=1)
    index: int = Field(default=0, ge=0)


StepCallback = Callable[[StepProgress], None]
"""Called after each sampler step, from any thread; an exception from it must end the drawing."""


@runtime_checkable
class Generator(Protocol):
    """Anything that draws pictures from a prompt."""

    @property
    def name(self) -> str:
        """Name for records, such as "lens-nano"."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can honour; `check_settings` holds settings against it."""
        ...

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """Draw one picture per seed, in the order of the seeds.

        Args:
            prompt: The prompt.
            seeds: At least one and at most `capabilities.max_images`; where the generator takes no
                seed, only their number counts and the pictures record None.
            settings: None means the generator's default; the pictures record what was used.
            on_step: Told about progress, where the generator can tell.

        Raises:
            UnsupportedSettingError: If a setting cannot be honoured.
            GeneratorError: If drawing failed.
        """
        ...


def check_settings(
    settings: GenerationSettings, capabilities: Capabilities, *, backend: str
) -> None:
    """Refuse settings the backend cannot honour, so that none is silently dropped.

    Raises:
        UnsupportedSettingError: Naming the setting, its value and what the backend supports.
    """

    def refuse(setting: str, value: object, rule: str) -> None:
        raise UnsupportedSettingError(
            f"{setting}={value!r} cannot be honoured by {backend!r}: {rule}.",
            setting=setting,
            value=value,
            backend=backend,
            hint=f"Leave {setting} out, change it, or choose another generator.",
        )

    if settings.num_inference_steps is not None and not capabilities.steps:
        refuse("num_inference_steps", settings.num_inference_steps, "its steps cannot be set")
    if settings.guidance_scale is not None and not capabilities.guidance:
        refuse("guidance_scale", settings.guidance_scale, "its guidance cannot be set")
    if settings.negative_prompt and not capabilities.negative_prompt:
        refuse("negative_prompt", settings.negative_prompt, "it takes no negative prompt")
    for key, value in settings.extra.items():
        if key not in capabilities.extra:
            refuse(key, value, f"it understands {list(capabilities.extra) or 'no extra settings'}")
    if settings.width is not None or settings.height is not None:
        problem = _size_problem(settings.width, settings.height, capabilities)
        if problem:
            refuse("size", f"{settings.width}x{settings.height}", problem)


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
