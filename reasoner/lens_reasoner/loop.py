"""Rewrite, generate, judge and revise: from one request to the best image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lens_reasoner.active_run import ActiveRun
from lens_reasoner.cache import Cache
from lens_reasoner.errors import LoopConfigError
from lens_reasoner.events import Event
from lens_reasoner.generator import Generator, OnUnsupported
from lens_reasoner.judge import Judge
from lens_reasoner.loop_limits import LoopLimits
from lens_reasoner.parts import LoopParts
from lens_reasoner.reasoner import Reasoner
from lens_reasoner.record import RunHeader, RunRecord, RunWriter
from lens_reasoner.revision import FidelityChecker, Reviser
from lens_reasoner.rounds import Rounds
from lens_reasoner.rubric import RubricWriter
from lens_reasoner.run_state import LoopResult, RunState
from lens_reasoner.settings import honoured_settings
from lens_reasoner.sync import run_sync
from lens_reasoner.types import ImageRequest, Rubric


class AgentLoop:
    """Generates candidates for a request until one is good enough.

    Each round generates `request.num_images` images with different seeds and judges each as soon as
    it exists. The loop then diagnoses what the images lack. If the prompt does not state it, or
    states it but every image of the round lacks it, the reviser writes another prompt; otherwise
    the next round only uses new seeds. An image is handed out as soon as it exists, and no later
    failure takes it away.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        reasoner: Reasoner | None = None,
        judge: Judge | None = None,
        rubric_writer: RubricWriter | None = None,
        fidelity_checker: FidelityChecker | None = None,
        reviser: Reviser | None = None,
        limits: LoopLimits | None = None,
        cache: Cache | str | Path | None = None,
        on_unsupported: OnUnsupported | None = None,
    ) -> None:
        """Assemble the parts.

        Args:
            generator: Generates the images.
            reasoner: Rewrites requests; None uses each request as the prompt.
            judge: Scores images; None generates one round and takes the first image.
            rubric_writer: Writes the judge's criteria; not needed if every run is given a rubric.
            fidelity_checker: Checks which criteria each prompt states; None assumes that every
                prompt states them all.
            reviser: Writes another prompt where new seeds would not help; None only uses new seeds.
            limits: When a run ends; by default after one round.
            cache: Cache shared with other runs, or its folder; None caches nothing. See `Cache` for
                what is stored.
            on_unsupported: Whether to refuse a request that the generator does not fully support,
                or to drop unsupported settings with a warning; None follows the generator's
                `capabilities`.
        """
        self._parts = LoopParts(
            generator=generator,
            reasoner=reasoner,
            judge=judge,
            rubric_writer=rubric_writer,
            fidelity_checker=fidelity_checker,
            reviser=reviser,
        )
        self._limits = limits or LoopLimits()
        self._on_unsupported = on_unsupported
        self._cache = Cache(cache) if isinstance(cache, str | Path) else cache
        self._calls: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
        self._calls = WeakKeyDictionary()

    async def run(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        record: str | Path | None = None,
        **options: Any,
    ) -> LoopResult:
        """Run to the end; see `stream`."""
        return await _fold(self.stream(request, rubric=rubric, record=record, **options))

    def run_sync(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        record: str | Path | None = None,
        **options: Any,
    ) -> LoopResult:
        """Synchronous version of `run`, which also works in notebooks."""
        return run_sync(self.run(request, rubric=rubric, record=record, **options))

    async def resume(self, record: str | Path) -> LoopResult:
        """Resume an interrupted run and finish it; see `stream_resumed`."""
        return await _fold(self.stream_resumed(record))

    def resume_sync(self, record: str | Path) -> LoopResult:
        """Synchronous version of `resume`, which also works in notebooks."""
        return run_sync(self.resume(record))

    def stream(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        record: str | Path | None = None,
        stop: Callable[[], bool] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Event]:
        """Run and yield each event as it happens; `fold_events` turns them into a result.

        Closing the iterator early ends the run; sampling in a thread stops at its next step. Use
        `contextlib.aclosing` to close it at once when you leave the loop.

        Args:
            request: What to generate.
            rubric: The criteria; None has the rubric writer write them.
            record: Folder for this run, where every event is written as it happens. If it already
                holds the same run, that run is resumed: its events come first, and no recorded call
                is repeated. A finished run is only read. None writes nothing.
            stop: Checked before every call. Once it returns True, no further call starts, calls in
                flight are finished and recorded, and the run ends without `Finished`, so that it
                can be resumed.
            **options: Fields of `ImageRequest`, such as `seed=1` and `num_images=4`.

        Raises:
            ValidationError: An option is not a field of `ImageRequest`, or is out of range.
            UnsupportedSettingError: The generator does not support the request; raised before
                anything is paid for.
            LoopConfigError: There is a judge or a fidelity checker, but neither a rubric nor a
                rubric writer.
            RunRecordError: `record` holds another run or is in use by another process.
            ReasonerError: Rewriting failed, or generation failed before there was any image.
        """
        request = ImageRequest.of(request, **options)
        return self._stream(self.header(request, rubric), record, stop)

    def header(self, request: ImageRequest, rubric: Rubric | None = None) -> RunHeader:
        """The header that the record of such a run begins with."""
        return RunHeader.now(
            request, rubric=rubric, limits=self._limits, parts=self._parts.identities()
        )

    def stream_resumed(self, record: str | Path) -> AsyncGenerator[Event]:
        """Resume a run that was killed or closed; the recorded events come first.

        Request, rubric and limits are those the run started with. A finished run is only read,
        unless it ended unjudged because the judge was unreachable: then the judge is asked again.

        Args:
            record: The run's folder.

        Raises:
            RunRecordError: There is no run, or it was made with parts other than this loop's.
            ReasonerError: As for `stream`.
        """
        begun = RunRecord(record).header
        header = begun.model_copy(update={"parts": self._parts.identities()})
        return self._stream(header, record)

    async def _stream(
        self,
        header: RunHeader,
        record: str | Path | None,
        stop: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[Event]:
        settings = honoured_settings(header.request, self._parts.generator, self._on_unsupported)
        self._check_criteria(header.rubric)
        writer = None if record is None else RunWriter(record, header)
        try:
            run = ActiveRun(
                header.request,
                settings,
                header.limits,
                rubric=header.rubric,
                writer=writer,
                stop=stop,
            )
            work = asyncio.create_task(self._work(run))
            work.add_done_callback(lambda _: run.events.put_nowait(None))
            try:
                while (event := await run.events.get()) is not None:
                    yield event
                await work
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        finally:
            if writer is not None:
                writer.close()

    async def _work(self, run: ActiveRun) -> None:
        run.state.reopen()
        if run.state.finished is not None:
            return
        run.begin()
        try:
            async with run.until_deadline():
                reason = await Rounds(self._cached_parts(), run, self._slots()).play()
        except TimeoutError:
            if not run.out_of_time:
                raise
            reason = "deadline"
        if reason != "interrupted":
            run.finish(reason)

    def _slots(self) -> asyncio.Semaphore:
        """Limits calls across this loop's runs; a semaphore belongs to one event loop."""
        here, most = asyncio.get_running_loop(), self._parts.generator.capabilities.max_concurrency
        return self._calls.setdefault(here, asyncio.Semaphore(most))

    def _cached_parts(self) -> LoopParts:
        if self._cache is None:
            return self._parts
        from lens_reasoner.cached_parts import cached

        return cached(self._parts, self._cache)

    def _check_criteria(self, rubric: Rubric | None) -> None:
        if rubric is not None or self._parts.rubric_writer is not None:
            return
        if self._parts.judge is not None:
            raise LoopConfigError(
                f"The judge {self._parts.judge.name!r} has no criteria.",
                hint="Give the loop a rubric_writer, or the run a rubric.",
            )
        if self._parts.fidelity_checker is not None:
            raise LoopConfigError(
                "The fidelity checker has no criteria to check.",
                hint="Give the loop a rubric_writer, or the run a rubric.",
            )


async def _fold(events: AsyncGenerator[Event]) -> LoopResult:
    state = RunState()
    async for event in events:
        state.apply(event)
    return state.result()
