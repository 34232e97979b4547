"""The interface between the client's calls and where they run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from lens_reasoner import (
    Event,
    GeneratedImage,
    ImageRequest,
    LoopLimits,
    LoopResult,
    Refused,
    Rewrite,
    Rubric,
    RunState,
)
from lens_sdk.client.types import Edit, Judgement, RunInfo


class RunStream(AsyncIterator[Event]):
    """The events of a run in progress; closing the stream early ends the run.

    Attributes:
        id: The run's ID once it is known; None for runs that are not recorded.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self._state = RunState()
        self._events: AsyncGenerator[Event] | None = None

    def begin(self, events: AsyncGenerator[Event]) -> Self:
        """Set the source of the events."""
        self._events = events
        return self

    async def __anext__(self) -> Event:
        """The next event."""
        assert self._events is not None, "begun where it was made"
        event = await anext(self._events)
        self._state.apply(event)
        return event

    async def result(self) -> LoopResult:
        """Wait for the end and return the result, including events that were already read."""
        async with self:
            async for _ in self:
                pass
        return self._state.result()

    @property
    def so_far(self) -> LoopResult:
        """The result so far.

        Raises:
            ValueError: The run's first event has not arrived yet.
        """
        return self._state.result()

    async def aclose(self) -> None:
        """End the run if it is still in progress; images generated so far are kept."""
        if self._events is not None:
            await self._events.aclose()

    async def __aenter__(self) -> Self:
        """Return the stream."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream."""
        await self.aclose()


class Backend(Protocol):
    """Runs a client's calls; see `AsyncLens` for their meaning."""

    async def images(self, request: ImageRequest, edit: Edit | None = None) -> list[GeneratedImage]:
        """Generate `request.num_images` images from `request.text` unchanged, or edit one."""
        ...

    def stream(
        self, request: ImageRequest, *, rubric: Rubric | None, limits: LoopLimits
    ) -> RunStream:
        """Start a run."""
        ...

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """Turn a request into a prompt."""
        ...

    async def judge(
        self, image: GeneratedImage, request: ImageRequest, *, rubric: Rubric | None
    ) -> Judgement:
        """Judge how well an image fulfils a request."""
        ...

    async def runs(self, limit: int) -> list[RunInfo]:
        """The latest runs, newest first."""
        ...

    async def run(self, name: str) -> RunInfo:
        """Summary of one run."""
        ...

    async def result(self, name: str) -> LoopResult:
        """The result of a run, or what it has produced so far."""
        ...

    def resume(self, name: str) -> RunStream:
        """Resume a run; the events already recorded come first."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
