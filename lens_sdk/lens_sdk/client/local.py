"""Calls that run in this process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from lens_reasoner import (
    Cache,
    Event,
    GeneratedImage,
    ImageRequest,
    LoopConfigError,
    LoopLimits,
    LoopResult,
    ReasonerError,
    Refused,
    Rewrite,
    Rubric,
    RunRecord,
    RunStore,
)
from lens_reasoner.answers import answer_of, verdict_of
from lens_reasoner.parts import LoopParts
from lens_reasoner.settings import honoured_settings
from lens_reasoner.types import MAX_SEED
from lens_sdk.client.backend import RunStream
from lens_sdk.client.parts import loop_of
from lens_sdk.client.types import Edit, Judgement, RunInfo
from lens_sdk.errors import PartlyDrawnError
from lens_sdk.generators import editing_generator, load_generator
from lens_sdk.tracing import traced


class LocalBackend:
    """Runs calls with parts in this process; the parts may themselves call providers.

    Args:
        parts: The parts to use.
        folder: Folder for recorded runs; None records none.
        cache: Cache shared with other runs; None caches nothing.
    """

    def __init__(
        self, parts: LoopParts, *, folder: Path | None = None, cache: Cache | None = None
    ) -> None:
        self._parts = parts
        self._store = None if folder is None else RunStore(folder)
        self._cache = cache

    async def images(self, request: ImageRequest, edit: Edit | None = None) -> list[GeneratedImage]:
        """See `Backend.images`."""
        generator = self._parts.generator
        if edit is not None:
            generator = await asyncio.to_thread(editing_generator, generator, edit.image, edit.mask)
        await asyncio.to_thread(load_generator, generator, request)
        if edit is not None:
            request = request.model_copy(update={"extra": {**request.extra, **edit.extra}})
        settings = honoured_settings(request, generator)
        first = secrets.randbelow(2**31) if request.seed is None else request.seed
        seeds = [(first + index) % (MAX_SEED + 1) for index in range(request.num_images)]
        drawn: list[GeneratedImage] = []
        at_once = generator.capabilities.max_images
        for begin in range(0, len(seeds), at_once):
            some = seeds[begin : begin + at_once]
            try:
                drawn += await generator.generate(request.text, seeds=some, settings=settings)
            except ReasonerError as error:
                if not drawn:
                    raise
                raise PartlyDrawnError(
                    f"{len(drawn)} of {len(seeds)} pictures were drawn, then: {error.message}",
                    images=drawn,
                    hint="Those that were drawn are in the error's images.",
                ) from error
        return drawn

    def stream(
        self, request: ImageRequest, *, rubric: Rubric | None, limits: LoopLimits
    ) -> RunStream:
        """See `Backend.stream`."""
        run, loop = RunStream(), loop_of(self._parts, limits, self._cache)
        folder = None if self._store is None else self._store.new()
        run.id = None if folder is None else folder.name
        events = loop.stream(request, rubric=rubric, record=folder)
        return run.begin(self._play(events, request))

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """See `Backend.rewrite`."""
        if self._parts.reasoner is None:
            raise LoopConfigError("There is no reasoner.", hint="Give Lens one: reasoner='auto'.")
        rewriting = self._parts.reasoner.rewrite(request)
        return await answer_of("reasoner", rewriting, Rewrite, Refused)

    async def judge(
        self, image: GeneratedImage, request: ImageRequest, *, rubric: Rubric | None
    ) -> Judgement:
        """See `Backend.judge`."""
        parts = self._parts
        if parts.judge is None:
            raise LoopConfigError("There is no judge.", hint="Give Lens one: judge='auto'.")
        if rubric is None:
            if parts.rubric_writer is None:
                raise LoopConfigError("The judge has no criteria.", hint="Give a rubric.")
            rubric = await parts.rubric_writer.write(request)
        return Judgement(rubric=rubric, verdict=await verdict_of(parts.judge, image, rubric))

    async def runs(self, limit: int) -> list[RunInfo]:
        """See `Backend.runs`."""
        return [run_info(record) for record in self._known().runs()[::-1][:limit]]

    async def run(self, name: str) -> RunInfo:
        """See `Backend.run`."""
        return run_info(self._known().open(name))

    async def result(self, name: str) -> LoopResult:
        """See `Backend.result`."""
        return self._known().open(name).result()

    def resume(self, name: str) -> RunStream:
        """See `Backend.resume`."""
        record = self._known().open(name)
        run, loop = RunStream(), loop_of(self._parts, cache=self._cache)
        run.id = name
        return run.begin(
            self._play(loop.stream_resumed(record.folder), known=len(record.lines) - 1)
        )

    async def close(self) -> None:
        """Do nothing, since nothing is held open."""

    async def _play(
        self, events: AsyncGenerator[Event], request: ImageRequest | None = None, *, known: int = 0
    ) -> AsyncGenerator[Event]:
        # Loading blocks, so do it in a thread to keep the event loop free.
        await asyncio.to_thread(load_generator, self._parts.generator, request)
        async with aclosing(traced(events, known=known)) as told:
            async for event in told:
                yield event

    def _known(self) -> RunStore:
        if self._store is None:
            raise LoopConfigError(
                "Runs are not recorded.", hint="Give Lens a folder for them: folder='runs'."
            )
        return self._store


def run_info(record: RunRecord) -> RunInfo:
    """Summary of a recorded run; a run still in progress counts as interrupted."""
    return RunInfo(
        id=record.folder.name,
        created_at=int(datetime.fromisoformat(record.header.created).timestamp()),
        status="finished" if record.finished else "interrupted",
        request=record.header.request,
        limits=record.header.limits,
        events=len(record.lines) - 1,
    )
