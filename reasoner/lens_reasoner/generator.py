"""Protocols for image generators, and what they support."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import GenerationSettings, Value

Size = tuple[int, int]
"""Width and height in pixels."""


OnUnsupported = Literal["raise", "warn"]
"""Refuse an unsupported setting, or leave it out with a warning and record that it was dropped."""


class SizeLimits(Value):
    """Limits for generators that accept any size.

    Attributes:
        longest_edge: Maximum width and height in pixels.
        fewest_pixels: Minimum of width times height.
        most_pixels: Maximum of width times height.
        widest_ratio: Maximum ratio of the longer to the shorter edge.
        besides: Sizes that are accepted although they break these limits.
    """

    longest_edge: int = Field(ge=1)
    fewest_pixels: int = Field(default=1, ge=1)
    most_pixels: int = Field(ge=1)
    widest_ratio: float = Field(ge=1)
    besides: tuple[Size, ...] = ()


class Capabilities(Value):
    """What a generator supports; by default nothing but a prompt.

    Attributes:
        seed: Whether the same seed gives the same image.
        negative_prompt: Whether a negative prompt has an effect.
        steps: Whether `num_inference_steps` can be set.
        guidance: Whether `guidance_scale` can be set.
        native_size: Size generated if none is requested; None if unknown.
        sizes: The only sizes it supports; None means any multiple of `multiple_of`, and an empty
            tuple means that the size cannot be chosen.
        preferred_sizes: Sizes it generates best; an aspect ratio is looked up here first.
        multiple_of: Width and height must be multiples of this, in pixels.
        size_limits: Limits if any size is accepted; None if there are none.
        max_images: Maximum images per call.
        max_concurrency: Maximum calls in flight; 1 for a single GPU.
        image_input: Whether it can start from an image; see `ImageEditor`.
        mask: Whether a mask can say which part of that image may change.
        max_prompt_tokens: Number of prompt tokens, by its own tokenizer, after which it truncates;
            None if unknown.
        extra: Names it accepts in `GenerationSettings.extra`.
        on_unsupported: What it does with an unsupported setting.
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
        index: Position in the call's `seeds` of the image, or of the first image of the batch.
    """

    step: int = Field(ge=1)
    total: int = Field(ge=1)
    index: int = Field(default=0, ge=0)


StepCallback = Callable[[StepProgress], None]
"""Called after each sampler step, from any thread; an exception in it must end the generation."""


@runtime_checkable
class Generator(Protocol):
    """Generates images from a prompt."""

    @property
    def name(self) -> str:
        """Name for records, such as "lens-nano"."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it supports; `check_settings` compares settings with it."""
        ...

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """Generate one image per seed, in the order of the seeds.

        Args:
            prompt: The prompt.
            seeds: Between 1 and `capabilities.max_images` seeds. If the generator takes no seed,
                only their number matters, and the images record None.
            settings: None means the generator's default; the images record what was actually used.
            on_step: Called with progress, if the generator can report it.

        Raises:
            UnsupportedSettingError: A setting is not supported.
            GeneratorError: Generation failed.
        """
        ...


@runtime_checkable
class SettingsChecker(Protocol):
    """A generator whose values have rules that `Capabilities` cannot express."""

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """The rules that these settings break, known before anything is generated.

        Args:
            settings: None means the generator's default.

        Returns:
            For each offending field of `GenerationSettings`, or name in `extra`, the rule its value
            breaks, worded to follow "it is not supported:".
        """
        ...


@runtime_checkable
class ImageEditor(Protocol):
    """A generator that can start from an image, if its capabilities say so."""

    def editing(self, image: bytes, *, mask: bytes | None = None) -> Generator:
        """Return a generator that edits `image` according to each prompt.

        Args:
            image: The image file.
            mask: A PNG file of the same size, transparent where the image may change.

        Raises:
            UnsupportedSettingError: The generator takes no source image, or no mask.
            ImageFileError: A file is not an image, or the mask does not match the image.
        """
        ...
