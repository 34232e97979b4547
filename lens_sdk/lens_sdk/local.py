"""Drawing with a Lens model on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lens_core.errors import InvalidSizeError, LensCoreError
from lens_reasoner import (
    BlockingGenerator,
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    GeneratorError,
    StepCallback,
    StepProgress,
    UnsupportedSettingError,
)
from lens_sdk.runtime import LensRuntime

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline

PIXELS_AT_ONCE = 1024 * 1024
"""Pictures drawn in one batch have together at most about this many pixels."""

MOST_AT_ONCE = 8
"""Most pictures in one batch."""


class LocalLensGenerator(BlockingGenerator):
    """A `Generator` round a `LensPipeline`.

    Every picture starts from noise of its own seed, so it stays the same in any batch. Its
    `capabilities` are the checkpoint's, which loads it when they are first asked for.
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
        """The weights and the versions of what draws with them."""
        return self.runtime.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """What the checkpoint can do.

        Raises:
            GeneratorError: The checkpoint cannot be loaded.
        """
        if self._capabilities is None:
            self._capabilities = _capabilities(self.runtime.load(), nano=self.runtime.model.nano)
        return self._capabilities

    def draw(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback,
    ) -> list[GeneratedImage]:
        """Draw one picture per seed in one batch.

        Raises:
            UnsupportedSettingError: A size Lens cannot make.
            GeneratorError: The model refused for another reason.
        """
        with self.runtime.exclusive() as pipeline:
            used = _filled(settings, pipeline)
            started = time.perf_counter()
            try:
                pictures = _run(pipeline, prompt, seeds, used, on_step)
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
        return [
            GeneratedImage.from_pil(
                picture,
                prompt=prompt,
                seed=seed,
                settings=used,
                generator=self.name,
                timings={"generate": seconds / len(seeds)},
            )
            for picture, seed in zip(pictures, seeds, strict=True)
        ]


def _run(
    pipeline: LensPipeline,
    prompt: str,
    seeds: Sequence[int],
    used: GenerationSettings,
    on_step: StepCallback,
) -> Sequence[Any]:
    import torch

    def report(_: object, step: int, __: object, ___: object) -> dict[str, Any]:
        on_step(StepProgress(step=step + 1, total=used.num_inference_steps or step + 1))
        return {}

    output = pipeline(
        prompt,
        negative_prompt=used.negative_prompt,
        height=used.height,
        width=used.width,
        num_inference_steps=used.num_inference_steps,
        guidance_scale=used.guidance_scale,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        callback_on_step_end=report,
        return_dict=False,
    )
    pictures: Sequence[Any] = output[0]
    return pictures


def _filled(settings: GenerationSettings, pipeline: LensPipeline) -> GenerationSettings:
    """The settings with the checkpoint's own values where none are given."""
    own = pipeline.defaults
    chosen = settings.model_dump(exclude_none=True)
    return GenerationSettings(
        **{
            "width": own.width,
            "height": own.height,
            "num_inference_steps": own.num_inference_steps,
            "guidance_scale": own.guidance_scale,
            **chosen,
        }
    )


def _capabilities(pipeline: LensPipeline, *, nano: bool) -> Capabilities:
    own = pipeline.defaults
    fits = PIXELS_AT_ONCE // (own.width * own.height)
    return Capabilities(
        seed=True,
        negative_prompt=True,
        steps=True,
        guidance=True,
        native_size=(own.width, own.height),
        sizes=None,
        preferred_sizes=_preferred_sizes(own.height, own.width, nano=nano),
        multiple_of=pipeline.size_multiple,
        max_images=min(MOST_AT_ONCE, max(1, fits)),
    )


def _preferred_sizes(height: int, width: int, *, nano: bool) -> tuple[tuple[int, int], ...]:
    """Width and height of the sizes a model was trained on, where they are known."""
    if nano:
        from lens_core.nano.sampling import TRAINING_SIZES

        return TRAINING_SIZES
    from lens_core.sizes import BUCKETS

    buckets = BUCKETS[height] if height == width and height in BUCKETS else {}
    return tuple((wide, high) for high, wide in buckets.values())
