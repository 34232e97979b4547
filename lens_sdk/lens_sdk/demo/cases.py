"""The demo's requests and their results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_reasoner import AgentLoop, Event, ImageRequest, LoopResult, RunState, RunStore

REQUESTS = (
    "two red apples left of a blue cup",
    "a yellow star above a green tree",
    "four purple fish",
    "a pink umbrella and a black car",
    "three orange flowers",
    "a white house",
    "a brown heart below a red fish",
    "The background is azure in the top half and sage in the bottom half. A large white house is "
    "in the centre, with a small red car in the lower left and a small green tree in the lower "
    "right.",
)
"""Requests from across the nano world; the last one is already detailed."""

Watcher = Callable[[int, str, Event], None]
"""Called with the case's number, "before" or "after", and the event."""


@dataclass(frozen=True)
class DemoCase:
    """One request, generated as it is and after rewriting.

    Both runs use the same seeds and the same criteria.

    Attributes:
        before: The run without a reasoner.
        after: The run with one.
    """

    before: LoopResult
    after: LoopResult

    @property
    def text(self) -> str:
        """The request."""
        return self.after.request.text

    @property
    def rewritten(self) -> bool:
        """Whether the prompt differs from the request."""
        best = self.after.best
        return best is not None and best.image.prompt != self.text


async def run_cases(
    plain: AgentLoop,
    reasoned: AgentLoop,
    requests: Sequence[ImageRequest],
    watch: Watcher,
    *,
    store: RunStore | None = None,
) -> AsyncGenerator[DemoCase]:
    """Run every request through both loops.

    Args:
        plain: The loop without a reasoner.
        reasoned: The loop with one.
        requests: The requests, each with its own seed.
        watch: Called with every event.
        store: Where the runs are recorded; None records none.
    """

    def folder() -> Path | None:
        return None if store is None else store.new()

    for number, request in enumerate(requests):
        before = RunState()
        async for event in plain.stream(request, record=folder()):
            before.apply(event)
            watch(number, "before", event)
        after = RunState()
        stream = reasoned.stream(request, rubric=before.rubric, record=folder())
        async for event in stream:
            after.apply(event)
            watch(number, "after", event)
        yield DemoCase(before=before.result(), after=after.result())
