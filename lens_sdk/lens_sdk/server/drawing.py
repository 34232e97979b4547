"""The generator of the server: a local Lens model that draws for all callers in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lens_core.errors import InvalidSizeError, LensCoreError
from lens_reasoner import (
    Capabilities,
    GeneratedImage,
    GenerationSettings,
    Generator,
    GeneratorError,
    StepCallback,
    UnsupportedSettingError,
)
from lens_reasoner.settings import check_seeds, check_settings
from lens_sdk.local import MOST_AT_ONCE, PIXELS_AT_ONCE, LocalLensGenerator
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.scheduler import Drawn, Order, PreviewCallback, StepScheduler


@runtime_checkable
class PreviewingGenerator(Protocol):
    """A generator that can show pictures before they are finished."""

    async def generate_with_previews(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
        on_preview: PreviewCallback,
        previews: int,
    ) -> list[GeneratedImage]:
        """`Generator.generate` that also shows `previews` unfinished states of each picture."""
        ...


class BatchingLensGenerator(LocalLensGenerator):
    """Draws like `LocalLensGenerator`, but the calls of all callers share their steps.

    Pictures are those of `LocalLensGenerator` up to rounding: each has noise of its own seed.
    """

    def __init__(
        self,
        runtime: LensRuntime,
        *,
        most_pixels: int = PIXELS_AT_ONCE,
        most_pictures: int = MOST_AT_ONCE,
    ) -> None:
        super().__init__(runtime)
        self.scheduler = StepScheduler(
            runtime, most_pixels=most_pixels, most_pictures=most_pictures
        )
        self._most_pictures = most_pictures

    @property
    def capabilities(self) -> Capabilities:
        """The checkpoint's; calls may run side by side."""
        return super().capabilities.model_copy(update={"max_concurrency": self._most_pictures})

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`; every picture reports steps of its own."""
        return await self._draw(Order(prompt, settings, on_step), seeds)

    async def generate_with_previews(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
        on_preview: PreviewCallback,
        previews: int,
    ) -> list[GeneratedImage]:
        """See `PreviewingGenerator`."""
        return await self._draw(Order(prompt, settings, on_step, on_preview, previews), seeds)

    def close(self) -> None:
        """Stop drawing."""
        self.scheduler.close()

    async def _draw(self, order: Order, seeds: Sequence[int]) -> list[GeneratedImage]:
        capabilities = self.capabilities
        order.settings = check_settings(order.settings, capabilities, backend=self.name)
        check_seeds(seeds, capabilities, backend=self.name)
        order.settings = self._filled(order.settings)
        try:
            drawn = await self.scheduler.draw(order, seeds)
        except InvalidSizeError as error:
            size = f"{order.settings.width}x{order.settings.height}"
            raise UnsupportedSettingError(
                f"{error}.",
                setting="size",
                value=size,
                backend=self.name,
                hint="Choose another size.",
            ) from error
        except LensCoreError as error:
            raise GeneratorError(f"{self.name!r} cannot draw this: {error}.") from error
        return await asyncio.to_thread(self._images, order, seeds, drawn)

    def _images(
        self, order: Order, seeds: Sequence[int], drawn: Sequence[Drawn]
    ) -> list[GeneratedImage]:
        return [
            GeneratedImage.from_pil(
                one.picture,
                prompt=order.prompt,
                seed=seed,
                settings=order.settings,
                generator=self.name,
                timings={"generate": one.seconds},
                recipe=self.recipe(order.settings, batch=[seed], index=0),
            )
            for seed, one in zip(seeds, drawn, strict=True)
        ]


def batching(generator: Generator) -> Generator:
    """A generator that batches calls where the model allows it; others are returned as they are."""
    if type(generator) is LocalLensGenerator:
        return BatchingLensGenerator(generator.runtime)
    return generator
