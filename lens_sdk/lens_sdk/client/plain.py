"""The synchronous client."""

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
"""Seconds allowed after Ctrl-C to end the work in progress."""

T = TypeVar("T")


class _Closing(ABC):
    """Base of objects that the end of a `with` block closes."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the object."""
        self.close()


class Lens(_Closing):
    """Synchronous version of `AsyncLens`, which also works in notebooks; Ctrl-C ends the call.

    Example:
        ```python
        lens = Lens()
        for image in lens.images.generate("a red apple", n=2, seed=1):
            image.save(f"apple-{image.seed}.png")
        ```

    Attributes:
        images: Generates and edits images; prompts are used unchanged.
        runs: Recorded runs.
    """

    def __init__(self, model: str | Path | Generator | None = None, **options: Any) -> None:
        """Choose where calls run; see `AsyncLens`."""
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
        """Rewrite, generate, judge and revise until a limit; see `AsyncLens.create`."""
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
        """`create` as a stream of events; closing it early ends the run between two steps."""
        return PlainRunStream(self._lens.stream(request, rubric=rubric, limits=limits, **options))

    def rewrite(self, request: ImageRequest | str, **options: Any) -> Rewrite | Refused:
        """Turn a request into a prompt; returns `Refused` with the reason if it is refused."""
        return _wait(self._lens.rewrite(request, **options))

    def judge(
        self, image: Picture, request: ImageRequest | str, *, rubric: Rubric | None = None
    ) -> Judgement:
        """Judge how well an image fulfils a request; see `AsyncLens.judge`."""
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
    """Generates and edits images; prompts are used unchanged, and nothing is judged."""

    def __init__(self, images: AsyncImages) -> None:
        self._images = images

    def generate(
        self, prompt: ImageRequest | str, *, n: int = 1, **options: Any
    ) -> list[GeneratedImage]:
        """Generate images; see `AsyncImages.generate`."""
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
        """Edit an image; see `AsyncImages.edit`."""
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
    """Recorded runs, on the server or in the client's folder."""

    def __init__(self, runs: AsyncRuns) -> None:
        self._runs = runs

    def list(self, limit: int = 20) -> list[RunInfo]:
        """The latest runs, newest first."""
        return _wait(self._runs.list(limit))

    def get(self, run_id: str) -> RunInfo:
        """Summary of one run."""
        return _wait(self._runs.get(run_id))

    def result(self, run_id: str) -> LoopResult:
        """The result of a run, or what it has produced so far."""
        return _wait(self._runs.result(run_id))

    def stream(self, run_id: str) -> PlainRunStream:
        """Resume a run as a stream of events, starting with those already recorded."""
        return PlainRunStream(self._runs.stream(run_id))

    def resume(self, run_id: str) -> LoopResult:
        """Resume a run and wait for its end; a finished run is only read."""
        return _wait(self._runs.resume(run_id))


class PlainRunStream(_Closing, Iterator[Event]):
    """The events of a run in progress; closing the stream early ends the run. See `RunStream`."""

    def __init__(self, run: RunStream) -> None:
        self._run = run
        self._events = _iterate(run)

    @property
    def id(self) -> str | None:
        """The run's ID once it is known; None for runs that are not recorded."""
        return self._run.id

    @property
    def so_far(self) -> LoopResult:
        """The result so far.

        Raises:
            ValueError: The run's first event has not arrived yet.
        """
        return self._run.so_far

    def __next__(self) -> Event:
        """The next event."""
        return next(self._events)

    def result(self) -> LoopResult:
        """Wait for the end and return the result, including events that were already read."""
        for _ in self:
            pass
        return self._run.so_far

    def close(self) -> None:
        """End the run if it is still in progress; images generated so far are kept."""
        self._events.close()


def _iterate(run: RunStream) -> Events[Event, None, None]:
    try:
        while (event := _wait(_next(run))) is not None:
            yield event
    finally:
        _wait(run.aclose())


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; after Ctrl-C, wait until the work has ended, also on a server."""
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
