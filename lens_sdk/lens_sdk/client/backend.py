"""The seam between the client's calls and where they are carried out."""

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
    """A run under way, event by event; closing it early ends the run.

    Attributes:
        id: The run's name, once it is known; None for runs that are not recorded.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self._state = RunState()
        self._events: AsyncGenerator[Event] | None = None

    def begin(self, events: AsyncGenerator[Event]) -> Self:
        """Set where the events come from."""
        self._events = events
        return self

    async def __anext__(self) -> Event:
        """The next event."""
        assert self._events is not None, "begun where it was made"
        event = await anext(self._events)
        self._state.apply(event)
        return event

    async def result(self) -> LoopResult:
        """Wait for the end; what the events so far add up to, and those to come."""
        async with self:
            async for _ in self:
                pass
        return self._state.result()

    @property
    def so_far(self) -> LoopResult:
        """What there is already.

        Raises:
            ValueError: If not even the start was seen.
        """
        return self._state.result()

    async def aclose(self) -> None:
        """End the run, unless it is over; its pictures so far stay."""
        if self._events is not None:
            await self._events.aclose()

    async def __aenter__(self) -> Self:
        """The run itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()


class Backend(Protocol):
    """Carries out a client's calls; see `AsyncLens` for what they mean."""

    async def images(self, request: ImageRequest, edit: Edit | None = None) -> list[GeneratedImage]:
        """Draw `request.num_images` pictures from `request.text` as it is, or change one."""
        ...

    def stream(
        self, request: ImageRequest, *, rubric: Rubric | None, limits: LoopLimits
    ) -> RunStream:
        """Begin a run."""
        ...

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """Turn a request into a prompt."""
        ...

    async def judge(
        self, image: GeneratedImage, request: ImageRequest, *, rubric: Rubric | None
    ) -> Judgement:
        """Hold a picture against a request."""
        ...

    async def runs(self, limit: int) -> list[RunInfo]:
        """The latest runs, newest first."""
        ...

    async def run(self, name: str) -> RunInfo:
        """One run."""
        ...

    async def result(self, name: str) -> LoopResult:
        """What a run produced, or has so far."""
        ...

    def resume(self, name: str) -> RunStream:
        """Go on with a run; what it recorded comes first."""
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...
