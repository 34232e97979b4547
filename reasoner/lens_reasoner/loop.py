"""Rewrite, draw, judge, choose: one request from the first word to the best picture."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager

from lens_reasoner.errors import GeneratorError, LoopConfigError, ReasonerError
from lens_reasoner.events import (
    Event,
    Finished,
    ImageReady,
    Judged,
    LoopResult,
    RewriteDone,
    RubricDone,
    RunState,
    StageFailed,
    StageFailure,
    Started,
    Step,
    StopReason,
)
from lens_reasoner.generator import Generator, StepProgress
from lens_reasoner.judge import Judge
from lens_reasoner.reasoner import Reasoner
from lens_reasoner.rubric import RubricWriter
from lens_reasoner.settings import settings_for
from lens_reasoner.sync import run_sync
from lens_reasoner.types import MAX_SEED, GenerationSettings, ImageRequest, Refused, Rubric


class AgentLoop:
    """Draws candidates for a request until one is good enough.

    Each round draws `request.num_images` pictures with seeds of their own and judges them. A
    picture is handed out as soon as it is there; what fails later never loses it.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        reasoner: Reasoner | None = None,
        judge: Judge | None = None,
        rubric_writer: RubricWriter | None = None,
        max_rounds: int = 1,
        target_score: float = 1.0,
    ) -> None:
        """Put the parts together.

        Args:
            generator: Draws the pictures.
            reasoner: Rewrites requests; None draws them as they are.
            judge: Scores pictures; None draws one round and takes the first picture.
            rubric_writer: Writes the judge's criteria; not needed where each run is given a rubric.
            max_rounds: Most rounds.
            target_score: The score, from 0 to 1, that ends the run.

        Raises:
            LoopConfigError: If a number is out of range.
        """
        if max_rounds < 1:
            raise LoopConfigError(f"max_rounds={max_rounds} is below 1.", hint="Ask for a round.")
        if not 0 <= target_score <= 1:
            raise LoopConfigError(
                f"target_score={target_score} is not between 0 and 1.",
                hint="Scores are shares of satisfied criteria.",
            )
        self._generator = generator
        self._reasoner = reasoner
        self._judge = judge
        self._rubric_writer = rubric_writer
        self._max_rounds = max_rounds
        self._target_score = target_score

    async def run(self, request: ImageRequest | str, *, rubric: Rubric | None = None) -> LoopResult:
        """Run to the end; see `stream`."""
        state = RunState()
        async for event in self.stream(request, rubric=rubric):
            state.apply(event)
        return state.result()

    def run_sync(self, request: ImageRequest | str, *, rubric: Rubric | None = None) -> LoopResult:
        """`run` for code that is not async."""
        return run_sync(self.run(request, rubric=rubric))

    async def stream(
        self, request: ImageRequest | str, *, rubric: Rubric | None = None
    ) -> AsyncGenerator[Event]:
        """Run and report each event as it happens; `fold_events` makes the result of them.

        Closing the iteration early ends the run; drawing in a thread ends at its next step. Use
        `contextlib.aclosing` to have it closed at once when leaving a loop.

        Args:
            request: What to draw.
            rubric: The criteria; None lets the rubric writer write them.

        Raises:
            UnsupportedSettingError: If the generator cannot honour the request; before anything
                is paid for.
            LoopConfigError: If there is a judge but neither a rubric nor a writer.
            ReasonerError: If rewriting fails, or drawing fails before any picture is there.
        """
        request = ImageRequest(text=request) if isinstance(request, str) else request
        generator = self._generator
        settings = settings_for(request, generator.capabilities, backend=generator.name)
        if self._judge is not None and rubric is None and self._rubric_writer is None:
            raise LoopConfigError(
                f"The judge {self._judge.name!r} has no criteria.",
                hint="Give the loop a rubric_writer, or the run a rubric.",
            )
        run = _Run(request, settings, rubric)
        work = asyncio.create_task(self._work(run))
        work.add_done_callback(lambda _: run.events.put_nowait(None))
        try:
            while (event := await run.events.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, run: _Run) -> None:
        run.emit(Started(request=run.request, seed=run.seed))
        prompt = run.request.text
        if self._reasoner is not None:
            with run.timed("rewrite"):
                outcome = await self._reasoner.rewrite(run.request)
            run.emit(RewriteDone(outcome=outcome))
            if isinstance(outcome, Refused):
                run.finish("refused")
                return
            prompt = outcome.prompt
        rubric = asyncio.create_task(self._rubric(run))
        try:
            for number in range(self._max_rounds):
                first = len(run.state.candidates)
                await self._draw_round(run, prompt, number)
                await self._judge_from(run, first, await rubric)
                if reason := self._stop_reason(run, first):
                    run.finish(reason)
                    return
        finally:
            rubric.cancel()
        run.finish("max_rounds")

    async def _rubric(self, run: _Run) -> Rubric | None:
        """The criteria, written while the first pictures are drawn; None without judging."""
        if self._judge is None:
            return None
        if run.rubric is not None or self._rubric_writer is None:
            if run.rubric is not None:
                run.emit(RubricDone(rubric=run.rubric, written=False))
            return run.rubric
        try:
            with run.timed("rubric"):
                rubric = await self._rubric_writer.write(run.request)
            run.emit(RubricDone(rubric=rubric, written=True))
        except Exception as error:
            run.emit(StageFailed(failure=StageFailure.of("rubric", error)))
            return None
        return rubric

    async def _draw_round(self, run: _Run, prompt: str, number: int) -> None:
        for seeds in run.seeds(number, self._generator.capabilities.max_images):
            try:
                await self._draw(run, prompt, seeds, number)
            except Exception as error:
                failure = _as_reasoner_error(error, self._generator.name)
                if not run.state.candidates:
                    raise failure from error
                run.emit(StageFailed(failure=StageFailure.of("generate", failure)))
                return

    async def _draw(self, run: _Run, prompt: str, seeds: Sequence[int], number: int) -> None:
        first = len(run.state.candidates)

        def on_step(done: StepProgress) -> None:
            run.emit_from_any_thread(
                Step(round=number, index=first + done.index, step=done.step, total=done.total)
            )

        with run.timed("generate"):
            images = await self._generator.generate(
                prompt, seeds=seeds, settings=run.settings, on_step=on_step
            )
        for offset, image in enumerate(images):
            run.emit(ImageReady(round=number, index=first + offset, image=image))
        if len(images) != len(seeds):
            raise GeneratorError(
                f"{self._generator.name!r} drew {len(images)} pictures for {len(seeds)} seeds.",
                hint="A generator returns one picture per seed.",
            )

    async def _judge_from(self, run: _Run, first: int, rubric: Rubric | None) -> None:
        if self._judge is None or rubric is None:
            return
        with run.timed("judge"):
            async with asyncio.TaskGroup() as judging:
                for index in range(first, len(run.state.candidates)):
                    judging.create_task(_judge_one(self._judge, run, index, rubric))

    def _stop_reason(self, run: _Run, first: int) -> StopReason | None:
        if any(failure.stage == "generate" for failure in run.state.failures):
            return "generator_failed"
        scores = [c.score for c in run.state.candidates[first:] if c.score is not None]
        if not scores:
            return "unjudged"
        return "target_reached" if max(scores) >= self._target_score else None


async def _judge_one(judge: Judge, run: _Run, index: int, rubric: Rubric) -> None:
    try:
        verdict = await judge.judge(run.state.candidates[index].image, rubric)
        run.emit(Judged(index=index, verdict=verdict))
    except Exception as error:
        run.emit(StageFailed(index=index, failure=StageFailure.of("judge", error)))


class _Run:
    """What one run carries from stage to stage; made within its event loop."""

    def __init__(
        self, request: ImageRequest, settings: GenerationSettings, rubric: Rubric | None
    ) -> None:
        self.request = request
        self.settings = settings
        self.rubric = rubric
        self.seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        self.state = RunState()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._started = time.perf_counter()
        self._timings: dict[str, float] = {}

    def emit(self, event: Event) -> None:
        """Take the event in and hand it out."""
        self.state.apply(event)
        self.events.put_nowait(event)

    def emit_from_any_thread(self, event: Event) -> None:
        """`emit`, also from a drawing thread."""
        if threading.get_ident() == self._thread:
            self.emit(event)
        else:
            self._loop.call_soon_threadsafe(self.emit, event)

    def seeds(self, number: int, at_once: int) -> Iterator[list[int]]:
        """The seeds of round `number`, from 0, in groups for one call each."""
        count = self.request.num_images
        start = self.seed + number * count
        # Past the largest seed they begin again at 0.
        seeds = [(start + offset) % (MAX_SEED + 1) for offset in range(count)]
        for first in range(0, count, at_once):
            yield seeds[first : first + at_once]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self._timings[stage] = self._timings.get(stage, 0.0) + elapsed

    def finish(self, reason: StopReason) -> None:
        """Emit the last event."""
        timings = {**self._timings, "total": time.perf_counter() - self._started}
        best = self.state.best_index
        self.emit(Finished(stop_reason=reason, best=best, timings=timings))


def _as_reasoner_error(error: Exception, name: str) -> ReasonerError:
    if isinstance(error, ReasonerError):
        return error
    return GeneratorError(
        f"The generator {name!r} failed: {type(error).__name__}: {error}",
        hint="The original error is the cause of this one.",
    )
