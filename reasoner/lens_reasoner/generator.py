"""The seam to image generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import GenerationSettings, Value

Size = tuple[int, int]
"""Width and height in pixels."""


OnUnsupported = Literal["raise", "warn"]
"""Refuse a setting that cannot be honoured, or leave it out with a warning and a note of it."""


class SizeLimits(Value):
    """Bounds of a freely chosen size.

    Attributes:
        longest_edge: Most pixels of width and of height.
        fewest_pixels: Least width times height.
        most_pixels: Most width times height.
        widest_ratio: Most that the longer edge is, in shorter edges.
        besides: Sizes beyond them that can be drawn nevertheless.
    """

    longest_edge: int = Field(ge=1)
    fewest_pixels: int = Field(default=1, ge=1)
    most_pixels: int = Field(ge=1)
    widest_ratio: float = Field(ge=1)
    besides: tuple[Size, ...] = ()


class Capabilities(Value):
    """What a generator can honour; the default is a generator that only takes a prompt.

    Attributes:
        seed: Whether the same seed gives the same image.
        negative_prompt: Whether a negative prompt has an effect.
        steps: Whether `num_inference_steps` can be set.
        guidance: Whether `guidance_scale` can be set.
        native_size: The size drawn when none is asked for; None if unknown.
        sizes: The only sizes it can draw; None means any multiple of `multiple_of`, an empty tuple
            that the size cannot be chosen.
        preferred_sizes: Sizes it draws best, among which an aspect ratio looks first.
        multiple_of: What width and height must be multiples of, in pixels.
        size_limits: Bounds where any size can be drawn; None if there are none to speak of.
        max_images: Most images in one call.
        max_concurrency: Most calls that may be under way at once; 1 for one GPU.
        image_input: Whether it can start from an image; see `ImageEditor`.
        mask: Whether it can then be told which part may change.
        max_prompt_tokens: Tokens of a prompt it reads, by its own count, before it cuts the rest
            off; None if unknown.
        extra: Names it understands in `GenerationSettings.extra`.
        on_unsupported: What it does with a setting it cannot honour.
    """

    seed: bool = False
    negative_prompt: bool = False
    steps: bool = False
    guidance: bool = False
    native_size: Size | None = None
    sizes: tuple[Size, ...] | None = ()
    preferred_sizes: tuple[Size, ...] = ()
    multiple_of: int = Field(default=1, ge=1)
    size_limits: SizeLimits | None = None
    max_images: int = Field(default=1, ge=1)
    max_concurrency: int = Field(default=1, ge=1)
    image_input: bool = False
    mask: bool = False
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    extra: tuple[str, ...] = ()
    on_unsupported: OnUnsupported = "raise"


class StepProgress(Value):
    """One finished sampler step.

    Attributes:
        step: Steps done so far, from 1 to `total`.
        total: Steps of this image or batch.
        index: Position within the call's `seeds` of the picture, or of the batch's first one.
    """

    step: int = Field(ge=1)
    total: int = Field(ge=1)
    index: int = Field(default=0, ge=0)


StepCallback = Callable[[StepProgress], None]
"""Called after each sampler step, from any thread; an exception from it must end the drawing."""


@runtime_checkable
class Generator(Protocol):
    """Anything that draws images from a prompt."""

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
        """Draw one image per seed, in the order of the seeds.

        Args:
            prompt: The prompt.
            seeds: At least one and at most `capabilities.max_images`; where the generator takes no
                seed, only their number counts and the images record None.
            settings: None means the generator's default; the images record what was used.
            on_step: Told about progress, where the generator can tell.

        Raises:
            UnsupportedSettingError: If a setting cannot be honoured.
            GeneratorError: If drawing failed.
        """
        ...


@runtime_checkable
class SettingsChecker(Protocol):
    """A generator with rules for values that its capabilities cannot say."""

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """What drawing with these settings would be refused for, known before anything is drawn.

        Args:
            settings: None means the generator's default.

        Returns:
            For each such field of `GenerationSettings`, or name in `extra`, the rule that its value
            breaks, as what follows "it cannot be honoured:".
        """
        ...


@runtime_checkable
class ImageEditor(Protocol):
    """A generator that can start from an image, where its capabilities say so."""

    def editing(self, image: bytes, *, mask: bytes | None = None) -> Generator:
        """A generator that changes an image as each prompt says.

        Args:
            image: The image file.
            mask: A PNG file of the same size, transparent where the image may change.

        Raises:
            UnsupportedSettingError: It starts from no image, or takes no mask.
            ImageFileError: A file is no image, or the mask does not fit.
        """
        ...
