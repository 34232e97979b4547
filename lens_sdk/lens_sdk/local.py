"""Generates images with a local Lens model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from lens_core.errors import InvalidSizeError, LensCoreError, ParameterError
from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    GeneratorError,
    SizeLimits,
    StepCallback,
    StepProgress,
    UnsupportedSettingError,
)
from lens_reasoner.blocking import Finish
from lens_reasoner.generators.source_picture import SourcePicture
from lens_sdk.recipe import SourceFile, make_recipe
from lens_sdk.runtime import LensRuntime

if TYPE_CHECKING:
    from PIL.Image import Image

    from lens_core.pipeline import LensPipeline
    from lens_core.sizes import SizeRules

PIXELS_AT_ONCE = 1024 * 1024
"""The images of one batch together have at most about this many pixels."""

MOST_AT_ONCE = 8
"""Most images in one batch."""


class LocalLensGenerator(BlockingGenerator):
    """A `Generator` that wraps a `LensPipeline`.

    Every image starts from the noise of its own seed, whatever else is in the batch.
    `GenerationSettings.extra` may hold `date`, the date given to the text encoder,
    `guidance_interval`, the noise levels between which guidance applies, `solver`, and `shift`,
    the time shift of the noise levels.
    """

    def __init__(self, runtime: LensRuntime) -> None:
        super().__init__()
        self.runtime = runtime
        self._capabilities: Capabilities | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.runtime.model.name

    @property
    def fingerprint(self) -> str:
        """Identifies the weights and the library versions."""
        return self.runtime.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The checkpoint's capabilities, available without loading it.

        Raises:
            GeneratorError: The checkpoint's settings cannot be read.
        """
        if self._capabilities is None:
            rules, nano = self.runtime.size_rules, self.runtime.model.nano
            self._capabilities = _capabilities(rules, nano=nano)
        return self._capabilities

    def broken_rules(self, settings: GenerationSettings) -> Mapping[str, str]:
        """See `SettingsChecker.broken_rules`; loads no weights."""
        broken = {}
        for name, check in self._checks(settings).items():
            try:
                check()
            except ParameterError as error:
                broken[name] = str(error)
        return broken

    def _checks(self, settings: GenerationSettings) -> dict[str, Callable[[], object]]:
        """Return a check for each setting, which raises `ParameterError` as the pipeline would."""
        scale, extra = settings.guidance_scale, settings.extra
        checks: dict[str, Callable[[], object]] = {}
        if scale is not None:
            from lens_core.pipeline_inputs import SamplingSettings

            checks["guidance_scale"] = partial(SamplingSettings, (1, 1), 1, scale, 1, "pil")
        if "date" in extra:
            from lens_core.chat import render_image_prompt

            checks["date"] = partial(render_image_prompt, "", _date(settings))
        readers = _readers()
        return checks | {
            name: partial(readers[name], value) for name, value in extra.items() if name in readers
        }

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> Finish:
        """Generate one image per seed in one batch; the returned function encodes them.

        Raises:
            UnsupportedSettingError: Lens does not support the size.
            GeneratorError: The model failed for another reason.
        """
        with self.runtime.exclusive() as pipeline:
            used = self._filled(settings)
            arguments = self._arguments(used)
            started = time.perf_counter()
            try:
                pictures = _run(pipeline, prompt, seeds, used, arguments, on_step)
            except InvalidSizeError as error:
                raise UnsupportedSettingError(
                    f"{error}.",
                    setting="size",
                    value=f"{used.width}x{used.height}",
                    backend=self.name,
                    hint="Choose another size or an aspect ratio such as 4:3.",
                ) from error
            except LensCoreError as error:
                raise GeneratorError(f"{self.name!r} cannot draw this: {error}.") from error
            seconds = time.perf_counter() - started
        return partial(self._encoded, pictures, prompt, seeds, used, seconds / len(seeds))

    def _encoded(
        self,
        pictures: Sequence[Image],
        prompt: str,
        seeds: Sequence[int],
        used: GenerationSettings,
        seconds: float,
    ) -> list[GeneratedImage]:
        return [
            GeneratedImage.from_pil(
                picture,
                prompt=prompt,
                seed=seed,
                settings=used,
                generator=self.name,
                timings={"generate": seconds},
                recipe=self.recipe(used, batch=seeds, index=index),
            )
            for index, (picture, seed) in enumerate(zip(pictures, seeds, strict=True))
        ]

    def editing(
        self,
        image: bytes,
        *,
        mask: bytes | None = None,
        strength: float | None = None,
        mask_feather: int | None = None,
    ) -> LocalLensGenerator:
        """Return a generator that edits an image with the same weights; see `ImageEditor`.

        Args:
            image: The image file.
            mask: A PNG file of the same size, transparent where the image may change. Elsewhere
                every pixel stays as it was.
            strength: Fraction of the steps to run, in (0, 1]; by default 0.6, or 1 with a mask.
            mask_feather: Pixels outside the mask over which new and old blend; 8 by default.

        Raises:
            ImageFileError: A file is not an image, or the mask does not fit.
            UnsupportedSettingError: Strength or feather is out of range, or feather has no mask.
        """
        from lens_sdk.editing import EditingLensGenerator

        takes = Capabilities(image_input=True, mask=True)
        source = SourcePicture.of(image, mask, takes, backend=self.name)
        return EditingLensGenerator(self.runtime, source, strength, mask_feather)

    def recipe(
        self, settings: GenerationSettings, *, batch: Sequence[int], index: int
    ) -> dict[str, JsonValue]:
        """Return what else is needed to reproduce an image; see `GeneratedImage.recipe`.

        Args:
            settings: The settings actually used.
            batch: Seeds of all images generated together.
            index: The image's position in `batch`.
        """
        return make_recipe(
            self.runtime.model,
            self.runtime.load(),
            settings,
            date=_date(settings),
            batch=batch,
            index=index,
            speed=self.runtime.speed,
            **self._source_files(),
        )

    def _own_settings(self) -> dict[str, Any]:
        """The checkpoint's own settings, used for whatever a request leaves open."""
        own = self.runtime.load().defaults
        return {
            "width": own.width,
            "height": own.height,
            "num_inference_steps": own.num_inference_steps,
            "guidance_scale": own.guidance_scale,
        }

    def _filled(self, settings: GenerationSettings) -> GenerationSettings:
        """Fill missing settings with the checkpoint's own values."""
        chosen = settings.model_dump(exclude_none=True)
        return GenerationSettings(**{**self._own_settings(), **chosen})

    def _arguments(self, settings: GenerationSettings) -> dict[str, Any]:
        """Pipeline arguments besides prompt, seeds and the usual settings."""
        return {
            "date": _date(settings),
            **{name: settings.extra.get(name) for name in _readers()},
        }

    def _source_files(self) -> dict[str, SourceFile | None]:
        """The files that generation starts from, by name in the recipe."""
        return {}


def _run(
    pipeline: LensPipeline,
    prompt: str,
    seeds: Sequence[int],
    used: GenerationSettings,
    arguments: dict[str, Any],
    on_step: StepCallback,
) -> Sequence[Any]:
    def report(_: object, step: int, __: object, ___: object) -> dict[str, Any]:
        on_step(StepProgress(step=step + 1, total=pipeline.num_timesteps))
        return {}

    output = pipeline(
        prompt,
        negative_prompt=used.negative_prompt,
        height=used.height,
        width=used.width,
        num_inference_steps=used.num_inference_steps,
        guidance_scale=used.guidance_scale,
        num_images_per_prompt=len(seeds),
        seed=list(seeds),
        callback_on_step_end=report,
        return_dict=False,
        **arguments,
    )
    pictures: Sequence[Any] = output[0]
    return pictures


def _readers() -> dict[str, Callable[[object], object]]:
    """Parsers for the settings that only Lens has; each refuses invalid values."""
    from lens_core.guidance import GuidanceInterval
    from lens_core.sampling import read_shift
    from lens_core.solvers import read_solver

    return {"guidance_interval": GuidanceInterval.read, "solver": read_solver, "shift": read_shift}


def _date(settings: GenerationSettings) -> str:
    from lens_core.chat import DEFAULT_DATE

    return str(settings.extra.get("date", DEFAULT_DATE))


def _capabilities(own: SizeRules, *, nano: bool) -> Capabilities:
    fits = PIXELS_AT_ONCE // (own.width * own.height)
    return Capabilities(
        seed=True,
        negative_prompt=True,
        steps=True,
        guidance=True,
        native_size=(own.width, own.height),
        sizes=None,
        preferred_sizes=_preferred_sizes(own.height, own.width, nano=nano),
        multiple_of=own.multiple,
        size_limits=_size_limits(),
        max_images=min(MOST_AT_ONCE, max(1, fits)),
        image_input=True,
        mask=True,
        extra=("date", *_readers()),
    )


def _size_limits() -> SizeLimits:
    """The rules of `lens_core.sizes.validate_size`."""
    from lens_core.sizes import BUCKETS, LARGER_SIZES, MAX_AREA, MAX_ASPECT_RATIO

    return SizeLimits(
        longest_edge=max(height for table in BUCKETS.values() for height, _ in table.values()),
        most_pixels=MAX_AREA,
        widest_ratio=MAX_ASPECT_RATIO,
        besides=tuple((width, height) for height, width in LARGER_SIZES),
    )


def _preferred_sizes(height: int, width: int, *, nano: bool) -> tuple[tuple[int, int], ...]:
    """Width and height of the sizes a model was trained on, if known."""
    if nano:
        from lens_core.nano.sampling import TRAINING_SIZES

        return TRAINING_SIZES
    from lens_core.sizes import BUCKETS

    buckets = BUCKETS[height] if height == width and height in BUCKETS else {}
    return tuple((wide, high) for high, wide in buckets.values())
