"""The client for code that is not async."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from collections.abc import Generator as Events
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lens_reasoner import (
    Event,
    GeneratedImage,
    Generator,
    ImageRequest,
    LoopLimits,
    LoopResult,
    Refused,
    Rewrite,
    Rubric,
    SystemPrompt,
    run_sync,
)
from lens_sdk.client.backend import RunStream
from lens_sdk.client.lens import AsyncLens
from lens_sdk.client.resources import AsyncImages, AsyncRuns, Picture
from lens_sdk.client.types import Judgement, RunInfo

if TYPE_CHECKING:
    from lens_prompt_opt import Budget, ProgressCallback, PromptSet, StudyResult

LONGEST_FAREWELL = 6.0
"""Seconds that ending what is under way may take after Ctrl-C."""

T = TypeVar("T")


class _Closing(ABC):
    """Closed at the end of a `with`."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


class Lens(_Closing):
    """`AsyncLens` for code that is not async, notebooks included; Ctrl-C ends what is under way.

    Example:
        ```python
        lens = Lens()
        for image in lens.images.generate("a red apple", n=2, seed=1):
            image.save(f"apple-{image.seed}.png")
        ```

    Attributes:
        images: Pictures from prompts as they are.
        runs: Recorded runs.
    """

    def __init__(self, model: str | Path | Generator | None = None, **options: Any) -> None:
        """Choose where calls are carried out; see `AsyncLens`."""
        self._lens = AsyncLens(model, **options)
        self.images = Images(self._lens.images)
        self.runs = Runs(self._lens.runs)

    def create(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        raise_on_limit: bool = False,
        **options: Any,
    ) -> LoopResult:
        """Rewrite, draw, judge and revise until a limit; see `AsyncLens.create`."""
        return _wait(
            self._lens.create(
                request, rubric=rubric, limits=limits, raise_on_limit=raise_on_limit, **options
            )
        )

    def stream(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        **options: Any,
    ) -> PlainRunStream:
        """`create`, event by event; closing it early ends the run between two steps."""
        return PlainRunStream(self._lens.stream(request, rubric=rubric, limits=limits, **options))

    def rewrite(self, request: ImageRequest | str, **options: Any) -> Rewrite | Refused:
        """Turn a request into a prompt, or learn why it is refused."""
        return _wait(self._lens.rewrite(request, **options))

    def judge(
        self, image: Picture, request: ImageRequest | str, *, rubric: Rubric | None = None
    ) -> Judgement:
        """Hold a picture against a request; see `AsyncLens.judge`."""
        return _wait(self._lens.judge(image, request, rubric=rubric))

    def optimize(
        self,
        requests: PromptSet | Sequence[str] | str | Path,
        *,
        budget: Budget | Mapping[str, float],
        folder: str | Path,
        seed_prompt: SystemPrompt | str | Path | None = None,
        on_progress: ProgressCallback | None = None,
        defaults: Mapping[str, object] | None = None,
        **order: Any,
    ) -> StudyResult:
        """Improve the reasoner's system prompt over many requests; see `AsyncLens.optimize`."""
        return _wait(
            self._lens.optimize(
                requests,
                budget=budget,
                folder=folder,
                seed_prompt=seed_prompt,
                on_progress=on_progress,
                defaults=defaults,
                **order,
            )
        )

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        _wait(self._lens.close())


class Images:
    """Pictures from prompts as they are: nothing is rewritten or judged."""

    def __init__(self, images: AsyncImages) -> None:
        self._images = images

    def generate(
        self, prompt: ImageRequest | str, *, n: int = 1, **options: Any
    ) -> list[GeneratedImage]:
        """Draw; see `AsyncImages.generate`."""
        return _wait(self._images.generate(prompt, n=n, **options))

    def edit(
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
        """Change a picture; see `AsyncImages.edit`."""
        return _wait(
            self._images.edit(
                image,
                prompt,
                mask=mask,
                n=n,
                strength=strength,
                mask_feather=mask_feather,
                **options,
            )
        )


class Runs:
    """Runs that were recorded, on the server or in the client's folder."""

    def __init__(self, runs: AsyncRuns) -> None:
        self._runs = runs

    def list(self, limit: int = 20) -> list[RunInfo]:
        """The latest runs, newest first."""
        return _wait(self._runs.list(limit))

    def get(self, run_id: str) -> RunInfo:
        """One run in a few words."""
        return _wait(self._runs.get(run_id))

    def result(self, run_id: str) -> LoopResult:
        """What a run produced, or has so far."""
        return _wait(self._runs.result(run_id))

    def stream(self, run_id: str) -> PlainRunStream:
        """Go on with a run, event by event; what it recorded comes first."""
        return PlainRunStream(self._runs.stream(run_id))

    def resume(self, run_id: str) -> LoopResult:
        """Go on with a run to its end; one that is finished is only read."""
        return _wait(self._runs.resume(run_id))


class PlainRunStream(_Closing, Iterator[Event]):
    """A run under way, event by event; closing it early ends the run. See `RunStream`."""

    def __init__(self, run: RunStream) -> None:
        self._run = run
        self._events = _iterate(run)

    @property
    def id(self) -> str | None:
        """The run's name, once it is known; None for runs that are not recorded."""
        return self._run.id

    @property
    def so_far(self) -> LoopResult:
        """What there is already.

        Raises:
            ValueError: If not even the start was seen.
        """
        return self._run.so_far

    def __next__(self) -> Event:
        """The next event."""
        return next(self._events)

    def result(self) -> LoopResult:
        """Wait for the end; what the events so far add up to, and those to come."""
        for _ in self:
            pass
        return self._run.so_far

    def close(self) -> None:
        """End the run, unless it is over; its pictures so far stay."""
        self._events.close()


def _iterate(run: RunStream) -> Events[Event, None, None]:
    try:
        while (event := _wait(_next(run))) is not None:
            yield event
    finally:
        _wait(run.aclose())


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; after Ctrl-C, until what is under way was ended, on a server too."""
    over = threading.Event()

    async def work() -> T:
        try:
            return await coroutine
        finally:
            over.set()

    try:
        return run_sync(work())
    except KeyboardInterrupt:
        over.wait(LONGEST_FAREWELL)
        raise


async def _next(run: RunStream) -> Event | None:
    return await anext(run, None)
