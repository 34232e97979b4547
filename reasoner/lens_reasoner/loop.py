"""Rewrite, draw, judge, revise: one request from the first word to the best image."""

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
    """Draws candidates for a request until one is good enough.

    Each round draws `request.num_images` images with seeds of their own and judges each as soon
    as it is there. What the images lack is then diagnosed: where the prompt does not say it, or
    every image of the round lacks it although the prompt says it, the reviser writes another
    prompt; otherwise the next round only has new seeds. An image is handed out as soon as it is
    there; what fails later never loses it.
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
        """Put the parts together.

        Args:
            generator: Draws the images.
            reasoner: Rewrites requests; None draws them as they are.
            judge: Scores images; None draws one round and takes the first image.
            rubric_writer: Writes the judge's criteria; not needed where each run is given a rubric.
            fidelity_checker: Looks the criteria up in each prompt; without one, every prompt is
                taken to state them all.
            reviser: Writes another prompt where new seeds would not help; None only takes new
                seeds.
            limits: When a run ends; by default after one round.
            cache: Where results are kept for other runs, or its folder; None keeps none. `Cache`
                says what is kept.
            on_unsupported: Refuse requests the generator cannot honour in full, or leave the rest
                out with a warning; None leaves it to the generator's `capabilities`.
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
        """`run` for code that is not async."""
        return run_sync(self.run(request, rubric=rubric, record=record, **options))

    async def resume(self, record: str | Path) -> LoopResult:
        """Run to the end what was interrupted; see `stream_resumed`."""
        return await _fold(self.stream_resumed(record))

    def resume_sync(self, record: str | Path) -> LoopResult:
        """`resume` for code that is not async."""
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
        """Run and report each event as it happens; `fold_events` makes the result of them.

        Closing the iteration early ends the run; drawing in a thread ends at its next step. Use
        `contextlib.aclosing` to have it closed at once when leaving a loop.

        Args:
            request: What to draw.
            rubric: The criteria; None lets the rubric writer write them.
            record: The run's own folder, where everything is written as it happens. If it holds
                the same run already, that is gone on with, or read if it is finished: its events
                come first, and no call that it shows is made again. None writes nothing.
            stop: Asked before every call; once it says True no further one is begun, what is under
                way is finished and recorded, and the run ends without `Finished`, for later.
            **options: Fields of `ImageRequest`, such as `seed=1` and `num_images=4`.

        Raises:
            ValidationError: An option that is no field of `ImageRequest`, or out of range.
            UnsupportedSettingError: If the generator cannot honour the request; before anything
                is paid for.
            LoopConfigError: If there is a judge but neither a rubric nor a writer.
            RunRecordError: If `record` holds another run, or is being written by somebody else.
            ReasonerError: If rewriting fails, or drawing fails before any image is there.
        """
        request = ImageRequest.of(request, **options)
        return self._stream(self.header(request, rubric), record, stop)

    def header(self, request: ImageRequest, rubric: Rubric | None = None) -> RunHeader:
        """What the record of such a run says it is about."""
        return RunHeader.now(
            request, rubric=rubric, limits=self._limits, parts=self._parts.identities()
        )

    def stream_resumed(self, record: str | Path) -> AsyncGenerator[Event]:
        """Go on with a run that was killed or closed; what it recorded comes first.

        Request, rubric and limits are those it began with. A run that is finished is only read,
        unless it ended unjudged because the judge could not be asked: then it is asked again.

        Args:
            record: The run's folder.

        Raises:
            RunRecordError: If there is no run, or it was made with other parts than this loop's.
            ReasonerError: As `stream` does.
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
        """Shared by all runs of this loop; one for each event loop, to which it is bound."""
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
                "The fidelity checker has no criteria to look up.",
                hint="Give the loop a rubric_writer, or the run a rubric.",
            )


async def _fold(events: AsyncGenerator[Event]) -> LoopResult:
    state = RunState()
    async for event in events:
        state.apply(event)
    return state.result()
