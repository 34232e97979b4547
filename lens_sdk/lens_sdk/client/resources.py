"""The parts of the async client: pictures and recorded runs."""

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
"""A picture, a picture file's bytes, or its path."""


class AsyncImages:
    """Pictures from prompts as they are: nothing is rewritten or judged."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def generate(
        self, prompt: ImageRequest | str, *, n: int = 1, **options: Any
    ) -> list[GeneratedImage]:
        """Draw.

        Args:
            prompt: What to draw.
            n: Number of pictures.
            **options: Fields of `ImageRequest`: `width` and `height`, `seed`,
                `num_inference_steps`, `guidance_scale`, `negative_prompt`, `extra`.

        Raises:
            ReasonerError: With what was wrong and what to do about it; `PartlyDrawnError`, which
                has the pictures there are, where some were drawn in this process before.
            ValidationError: An option that is no field of `ImageRequest`, or out of range.
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
        """Change a picture.

        Args:
            image: The picture.
            prompt: What it should show.
            mask: A PNG file of the same size, transparent where the picture may change.
            n: Number of pictures.
            strength: How far from the picture, above 0 to 1; the model's own by default.
            mask_feather: Pixels outside the mask over which new and old mix.
            **options: Fields of `ImageRequest`, as for `generate`.

        Raises:
            LensError: With what was wrong and what to do about it; `UnsupportedSettingError` if the
                model starts from no picture.
            ValidationError: An option that is no field of `ImageRequest`, or out of range.
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
    """Runs that were recorded, on the server or in the client's folder."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self, limit: int = 20) -> list[RunInfo]:
        """The latest runs, newest first."""
        return await self._backend.runs(limit)

    async def get(self, run_id: str) -> RunInfo:
        """One run in a few words."""
        return await self._backend.run(run_id)

    async def result(self, run_id: str) -> LoopResult:
        """What a run produced, or has so far."""
        return await self._backend.result(run_id)

    def stream(self, run_id: str) -> RunStream:
        """Go on with a run, event by event; what it recorded comes first."""
        return self._backend.resume(run_id)

    async def resume(self, run_id: str) -> LoopResult:
        """Go on with a run to its end; one that is finished is only read."""
        return await self._backend.resume(run_id).result()


def as_picture(image: Picture) -> GeneratedImage:
    """A picture in memory, which can be decoded to its end.

    Raises:
        ImageFileError: There is no such file, or it is no picture or a damaged one.
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
