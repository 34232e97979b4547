"""The server's generator: a local Lens model that serves all callers in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.settings import check_seeds, check_settings
from lens_sdk.editing import EditingLensGenerator
from lens_sdk.local import MOST_AT_ONCE, PIXELS_AT_ONCE, LocalLensGenerator
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.scheduler import Drawn, Order, PreviewCallback, StepScheduler

if TYPE_CHECKING:
    from lens_core.starting_points import StartingPictures


@runtime_checkable
class PreviewingGenerator(Protocol):
    """A generator that can produce previews of unfinished images."""

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
        """Like `Generator.generate`, with `previews` previews of each unfinished image."""
        ...


class SharingSteps(LocalLensGenerator):
    """A local Lens model that runs the steps of different callers together.

    Images match those generated alone up to rounding, since each has noise from its own seed.

    Attributes:
        scheduler: Runs the steps of all calls.
    """

    scheduler: StepScheduler

    @property
    def capabilities(self) -> Capabilities:
        """The checkpoint's capabilities, with concurrent calls allowed."""
        return super().capabilities.model_copy(
            update={"max_concurrency": self.scheduler.most_pictures}
        )

    async def generate(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: StepCallback | None = None,
    ) -> list[GeneratedImage]:
        """See `Generator.generate`; every image reports its own steps."""
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

    async def _draw(self, order: Order, seeds: Sequence[int]) -> list[GeneratedImage]:
        capabilities = self.capabilities
        order.settings = check_settings(
            order.settings, capabilities, backend=self.name, rules=self.broken_rules
        )
        check_seeds(seeds, capabilities, backend=self.name)
        order.settings = self._filled(order.settings)
        try:
            order.start = await asyncio.to_thread(self._start, order.settings)
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

    def _start(self, settings: GenerationSettings) -> StartingPictures | None:
        """Decode the image and mask to start from."""
        from lens_core.starting_points import StartingPictures

        names = ("image", "mask_image", "strength", "mask_feather")
        told = self._arguments(settings)
        return StartingPictures.read(*(told.get(name) for name in names))

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


class BatchingLensGenerator(SharingSteps):
    """A local Lens model that generates and edits images for all callers in one batch."""

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

    def editing(
        self,
        image: bytes,
        *,
        mask: bytes | None = None,
        strength: float | None = None,
        mask_feather: int | None = None,
    ) -> BatchingEditor:
        """See `LocalLensGenerator.editing`; the edits join the same batch."""
        takes = Capabilities(image_input=True, mask=True)
        source = SourcePicture.of(image, mask, takes, backend=self.name)
        return BatchingEditor(self.runtime, source, strength, mask_feather, self.scheduler)

    def close(self) -> None:
        """Stop generating."""
        self.scheduler.close()


class BatchingEditor(SharingSteps, EditingLensGenerator):
    """Edits an image in the batch of the generator that created this editor.

    Args:
        runtime: The model.
        source: The image to start from.
        strength: See `EditingLensGenerator`.
        mask_feather: See `EditingLensGenerator`.
        scheduler: Runs the steps.
    """

    def __init__(
        self,
        runtime: LensRuntime,
        source: SourcePicture,
        strength: float | None,
        mask_feather: int | None,
        scheduler: StepScheduler,
    ) -> None:
        super().__init__(runtime, source, strength, mask_feather)
        self.scheduler = scheduler


def batching(generator: Generator) -> Generator:
    """Return a generator that batches calls, or the same one if it does not support batching."""
    if type(generator) is LocalLensGenerator:
        return BatchingLensGenerator(generator.runtime)
    return generator
