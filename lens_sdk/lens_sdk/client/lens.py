"""The async client: the same calls in this process and on a server."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lens_reasoner import (
    Cache,
    GeneratedImage,
    GenerationSettings,
    Generator,
    ImageRequest,
    Judge,
    LoopLimits,
    LoopResult,
    Reasoner,
    Refused,
    Rewrite,
    Rubric,
    RubricWriter,
)
from lens_sdk.client.backend import Backend, RunStream
from lens_sdk.client.types import Edit, Judgement, RunInfo, Timeouts
from lens_sdk.errors import LimitReachedError
from lens_sdk.session import PartChoice
from lens_sdk.settings import FROM_SETTINGS, FromSettings, Settings
from lens_sdk.tracing import call_span

LIMITS = frozenset({"max_rounds", "max_images", "max_cost", "cost_unknown", "deadline"})
"""The reasons to stop that are limits."""

Picture = GeneratedImage | bytes | str | Path
"""A picture, a picture file's bytes, or its path."""


class AsyncLens:
    """Pictures and runs, from a model in this process or from a server.

    Example:
        ```python
        async with AsyncLens() as lens:  # or AsyncLens(base_url="http://gpu:8000", api_key="...")
            result = await lens.create("two red apples left of a blue cup", num_images=4)
            result.best.image.save("apples.png")
        ```

    Attributes:
        images: Pictures from prompts as they are.
        runs: Recorded runs.
    """

    def __init__(
        self,
        model: str | Generator | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        reasoner: PartChoice | Reasoner | FromSettings | None = FROM_SETTINGS,
        judge: PartChoice | Judge | FromSettings | None = FROM_SETTINGS,
        rubric_writer: PartChoice | RubricWriter | None = None,
        folder: str | Path | FromSettings | None = FROM_SETTINGS,
        cache: Cache | str | Path | FromSettings | None = FROM_SETTINGS,
        timeouts: Timeouts | None = None,
        max_retries: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Choose where calls are carried out; what is not given comes from the settings.

        Args:
            model: In this process: see `lens_sdk.build_loop`. Not used with a server.
            base_url: A server, such as "http://127.0.0.1:8000". Without one in the settings either,
                or with "" here, everything is done in this process.
            api_key: The server's key.
            reasoner: In this process: see `lens_sdk.build_loop`.
            judge: In this process: see `lens_sdk.build_loop`.
            rubric_writer: In this process: see `lens_sdk.build_loop`.
            folder: In this process: where runs are recorded; None records none.
            cache: In this process: where results are kept for other runs; None keeps none.
            timeouts: How long a server may take.
            max_retries: Times to ask a server again; it never does the same work twice.
            settings: Settings to use; by default those that hold here and now.

        Raises:
            ReasonerError: As `lens_sdk.build_loop` does; `SettingsError` for the settings.
        """
        known = settings or Settings.load(max_retries=max_retries)
        url = known.base_url if base_url is None else base_url
        self._backend: Backend
        if url:
            from lens_sdk.client.remote import RemoteBackend

            self._backend = RemoteBackend(
                url,
                api_key=api_key or known.key(),
                timeouts=timeouts or Timeouts(**known.timeouts.model_dump()),
                max_retries=known.max_retries if max_retries is None else max_retries,
            )
        else:
            from lens_sdk.client.local import LocalBackend
            from lens_sdk.client.parts import choose_parts
            from lens_sdk.generators import choose_generator

            drawing = known.model if model is None else model
            generator = choose_generator(drawing) if isinstance(drawing, str) else drawing
            parts = choose_parts(
                generator,
                reasoner=known.reasoner if isinstance(reasoner, FromSettings) else reasoner,
                judge=known.judge if isinstance(judge, FromSettings) else judge,
                rubric_writer=known.rubric if rubric_writer is None else rubric_writer,
                provider=known.provider,
            )
            cached = known.cache if isinstance(cache, FromSettings) else cache
            kept = Cache(cached) if isinstance(cached, str | Path) else cached
            where = known.runs if isinstance(folder, FromSettings) else folder
            self._backend = LocalBackend(
                parts, folder=None if where is None else Path(where), cache=kept
            )
        self.images = AsyncImages(self._backend)
        self.runs = AsyncRuns(self._backend)

    async def create(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        raise_on_limit: bool = False,
        **options: Any,
    ) -> LoopResult:
        """Rewrite, draw, judge and revise until a limit; `result.best` is the best picture.

        Args:
            request: What to draw.
            rubric: The criteria; by default they are written.
            limits: When to end; after one round by default.
            raise_on_limit: Raise where a limit ended the run before its target score.
            **options: Fields of `ImageRequest`, such as `seed=1` and `num_images=4`.

        Raises:
            LensError: With what was wrong and what to do about it.
            LimitReachedError: With the result so far, if `raise_on_limit`.
            ValidationError: An option that is no field of `ImageRequest`, or out of range.
        """
        run = self.stream(request, rubric=rubric, limits=limits, **options)
        result = await run.result()
        if raise_on_limit and result.stop_reason in LIMITS:
            raise LimitReachedError.of(result)
        return result

    def stream(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        **options: Any,
    ) -> RunStream:
        """`create`, event by event; closing the stream early ends the run between two steps."""
        asked = as_request(request, options)
        return self._backend.stream(asked, rubric=rubric, limits=limits or LoopLimits())

    async def rewrite(self, request: ImageRequest | str, **options: Any) -> Rewrite | Refused:
        """Turn a request into a prompt, or learn why it is refused."""
        asked = as_request(request, options)
        with call_span("rewrite") as span:
            outcome = await self._backend.rewrite(asked)
            span.tell(outcome)
        return outcome

    async def judge(
        self, image: Picture, request: ImageRequest | str, *, rubric: Rubric | None = None
    ) -> Judgement:
        """Hold a picture against a request.

        Args:
            image: The picture.
            request: What it was to show.
            rubric: The criteria; by default they are written from the request.
        """
        picture, asked = as_picture(image), as_request(request, {})
        with call_span("judge") as span:
            judgement = await self._backend.judge(picture, asked, rubric=rubric)
            span.tell(judgement.verdict)
        return judgement

    async def close(self) -> None:
        """Give up connections."""
        await self._backend.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()


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
                `num_inference_steps`, `guidance_scale`, `negative_prompt`.

        Raises:
            ReasonerError: With what was wrong and what to do about it.
            ValidationError: An option that is no field of `ImageRequest`, or out of range.
        """
        return await self._draw(as_request(prompt, {"num_images": n, **options}), None)

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
        return await self._draw(as_request(prompt, {"num_images": n, **options}), edit)

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


def as_request(request: ImageRequest | str, options: dict[str, Any]) -> ImageRequest:
    """A request with options in place of its own values.

    Raises:
        ValidationError: An option that is no field of `ImageRequest`, or out of range.
    """
    if isinstance(request, str):
        return ImageRequest(text=request, **options)
    return ImageRequest(**{**request.model_dump(), **options}) if options else request


def as_picture(image: Picture) -> GeneratedImage:
    """A picture in memory.

    Raises:
        ImageFileError: The bytes are no picture.
    """
    if isinstance(image, GeneratedImage):
        return image
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    settings = GenerationSettings()
    return GeneratedImage(data=data, seed=None, prompt="", settings=settings, generator="upload")
