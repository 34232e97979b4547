"""The parts of the async client: images and recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_reasoner import (
    GeneratedImage,
    GenerationSettings,
    ImageFileError,
    ImageRequest,
    LoopResult,
)
from lens_reasoner.generators.images_wire import check_picture
from lens_sdk.client.backend import Backend, RunStream
from lens_sdk.client.types import Edit, RunInfo
from lens_sdk.tracing import call_span

Picture = GeneratedImage | bytes | str | Path
"""An image, the bytes of an image file, or its path."""


class AsyncImages:
    """Generates and edits images; prompts are used unchanged, and nothing is judged."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def generate(
        self, prompt: ImageRequest | str, *, n: int = 1, **options: Any
    ) -> list[GeneratedImage]:
        """Generate images.

        Args:
            prompt: The prompt.
            n: Number of images.
            **options: Fields of `ImageRequest`: `width` and `height`, `seed`,
                `num_inference_steps`, `guidance_scale`, `negative_prompt`, `extra`.

        Raises:
            ReasonerError: The call failed; the message says why and what to do. If this process
                had already finished some images, it is a `PartlyDrawnError` that holds them.
            ValidationError: An option is not a field of `ImageRequest`, or is out of range.
        """
        return await self._draw(ImageRequest.of(prompt, **{"num_images": n, **options}), None)

    async def edit(
        self,
        image: Picture,
        prompt: ImageRequest | str,
        *,
        mask: bytes | str | Path | None = None,
        n: int = 1,
        strength: float | None = None,
        mask_feather: int | None = None,
        **options: Any,
    ) -> list[GeneratedImage]:
        """Edit an image.

        Args:
            image: The image.
            prompt: What the result should show.
            mask: A PNG file of the same size, transparent where the image may change.
            n: Number of results.
            strength: How far to depart from the image, above 0 and at most 1; the model's default
                if None.
            mask_feather: Width in pixels of the transition outside the mask from new to old.
            **options: Fields of `ImageRequest`, as for `generate`.

        Raises:
            LensError: The call failed; the message says why and what to do. It is an
                `UnsupportedSettingError` if the model cannot edit images.
            ValidationError: An option is not a field of `ImageRequest`, or is out of range.
        """
        told = {"strength": strength, "mask_feather": mask_feather}
        edit = Edit(
            as_picture(image).data,
            Path(mask).read_bytes() if isinstance(mask, str | Path) else mask,
            {name: value for name, value in told.items() if value is not None},
        )
        return await self._draw(ImageRequest.of(prompt, **{"num_images": n, **options}), edit)

    async def _draw(self, asked: ImageRequest, edit: Edit | None) -> list[GeneratedImage]:
        with call_span("image_generation") as span:
            images = await self._backend.images(asked, edit)
            span.tell(images)
        return images


class AsyncRuns:
    """Recorded runs, on the server or in the client's folder."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self, limit: int = 20) -> list[RunInfo]:
        """The latest runs, newest first."""
        return await self._backend.runs(limit)

    async def get(self, run_id: str) -> RunInfo:
        """Summary of one run."""
        return await self._backend.run(run_id)

    async def result(self, run_id: str) -> LoopResult:
        """The result of a run, or what it has produced so far."""
        return await self._backend.result(run_id)

    def stream(self, run_id: str) -> RunStream:
        """Resume a run as a stream of events, starting with those already recorded."""
        return self._backend.resume(run_id)

    async def resume(self, run_id: str) -> LoopResult:
        """Resume a run and wait for its end; a finished run is only read."""
        return await self._backend.resume(run_id).result()


def as_picture(image: Picture) -> GeneratedImage:
    """Load an image and check that it decodes completely.

    Raises:
        ImageFileError: The file does not exist, is not an image, or is damaged.
    """
    if isinstance(image, GeneratedImage):
        return image
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        check_picture(data)
    except OSError as error:
        raise ImageFileError(f"{image!s} cannot be read: {error.strerror or error}.") from error
    except ImageFileError as error:
        where = "" if isinstance(image, bytes) else f"{image}: "
        raise ImageFileError(
            f"{where}{error.message}", hint="Give an intact PNG, JPEG, WebP or GIF file."
        ) from error
    settings = GenerationSettings()
    return GeneratedImage(data=data, seed=None, prompt="", settings=settings, generator="upload")
