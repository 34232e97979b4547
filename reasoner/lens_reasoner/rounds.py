"""The rounds of a run: generate, judge, diagnose, revise.

Every stage first checks what the run already has, so a resumed run skips what was done and only
makes the missing calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from lens_reasoner.active_run import ActiveRun
from lens_reasoner.answers import answer_of, images_of, verdict_of
from lens_reasoner.diagnosis import diagnose, prompt_problems
from lens_reasoner.errors import GenerationRefusedError, GeneratorError, ReasonerError
from lens_reasoner.events import (
    Diagnosed,
    FidelityChecked,
    ImageReady,
    Judged,
    Revised,
    RewriteDone,
    RubricDone,
    StageFailed,
    StageFailure,
    Step,
    StopReason,
)
from lens_reasoner.generator import StepProgress
from lens_reasoner.image import GeneratedImage
from lens_reasoner.parts import LoopParts
from lens_reasoner.revision import FidelityReport
from lens_reasoner.run_state import Candidate
from lens_reasoner.together import first_error
from lens_reasoner.types import Refused, Rewrite, Rubric, Usage


class Rounds:
    """Carries one run through its rounds."""

    def __init__(self, parts: LoopParts, run: ActiveRun, slots: asyncio.Semaphore) -> None:
        """Prepare the run.

        Args:
            parts: The parts of the loop.
            run: The run's state; it receives the events.
            slots: Limits concurrent calls to the generator.
        """
        self._parts = parts
        self._run = run
        self._slots = slots
        self._interrupted = False

    async def play(self) -> StopReason:
        """Rewrite, then generate round after round.

        Returns:
            Why the run ended; "interrupted" if calls remain to be made later.

        Raises:
            ReasonerError: Rewriting failed, or generation failed before there was any image.
        """
        await self._rewrite()
        if isinstance(self._run.state.rewrite, Refused):
            return "refused"
        number = 0
        while not (reason := self._run.exhausted):
            await self._draw_and_judge(number)
            if self._interrupted:
                return "interrupted"
            self._diagnose(number)
            if reason := self._stop_reason(number):
                break
            await self._revise(number)
            number += 1
        return reason

    def _may_call(self) -> bool:
        """Whether another call may be made; remembers if a call was skipped by an interruption."""
        reason = self._run.exhausted
        self._interrupted = self._interrupted or reason == "interrupted"
        return reason is None

    async def _rewrite(self) -> None:
        run, reasoner = self._run, self._parts.reasoner
        if reasoner is None or run.state.rewrite is not None or not self._may_call():
            return
        with run.stage("rewrite"):
            outcome = await answer_of("reasoner", reasoner.rewrite(run.request), Rewrite, Refused)
        run.emit(RewriteDone(outcome=outcome))

    async def _draw_and_judge(self, number: int) -> None:
        """Generate a round's missing images and judge each as soon as it exists."""
        candidates = self._run.state.candidates
        try:
            async with asyncio.TaskGroup() as tasks:
                # The rubric is written while the first images are generated.
                rubric = tasks.create_task(self._rubric())
                tasks.create_task(self._check_fidelity(number, rubric))

                def judge(index: int) -> None:
                    tasks.create_task(self._judge(index, rubric))

                for index in self._run.planned(number):
                    if index in candidates:
                        judge(index)
                await self._draw(number, judge)
        except BaseExceptionGroup as failed:
            raise first_error(failed)  # noqa: B904 - its own cause says more than the group

    async def _rubric(self) -> Rubric | None:
        """The criteria; None if they are not needed or could not be written."""
        run, parts = self._run, self._parts
        if parts.judge is None and parts.fidelity_checker is None:
            return None
        if run.state.rubric is not None:
            return run.state.rubric
        if run.rubric is not None:
            run.emit(RubricDone(rubric=run.rubric, written=False))
            return run.rubric
        if parts.rubric_writer is None or run.state.has_failed("rubric"):
            return None
        if not self._may_call():
            return None
        try:
            with run.stage("rubric"):
                written = parts.rubric_writer.write(run.request)
                rubric = await answer_of("rubric_writer", written, Rubric)
        except Exception as error:
            run.emit(StageFailed(failure=StageFailure.of("rubric", error)))
            return None
        run.emit(RubricDone(rubric=rubric, written=True))
        return rubric

    async def _check_fidelity(self, number: int, criteria: asyncio.Task[Rubric | None]) -> None:
        run, checker = self._run, self._parts.fidelity_checker
        rubric, prompt = await criteria, run.state.prompt(number).prompt
        if checker is None or rubric is None:
            return
        tried = (run.state.prompt(n).prompt for n in range(number + 1) if self._unchecked(n))
        if prompt in run.state.reports or prompt in tried or not self._may_call():
            return
        try:
            with run.stage("fidelity", round_number=number):
                checked = checker.check(run.request, prompt, rubric)
                report = await answer_of("fidelity_checker", checked, FidelityReport)
        except Exception as error:
            failure = StageFailure.of("fidelity", error)
            run.emit(StageFailed(round=number, failure=failure))
            return
        run.emit(FidelityChecked(round=number, report=report))

    def _unchecked(self, number: int) -> bool:
        return self._run.state.has_failed("fidelity", number)

    async def _draw(self, number: int, judge: Callable[[int], None]) -> None:
        """Generate a round's missing images, with as many concurrent calls as the generator allows.

        The run continues without an image that is refused or missing from a reply. Any other
        failure stops generation for the whole run.
        """
        run, generator = self._run, self._parts.generator
        if run.state.has_failed("generate"):
            return
        failures = _GenerationFailures(run, number)

        async def draw(indices: Sequence[int]) -> None:
            async with self._slots:
                if failures.whole or not self._may_call():
                    return
                try:
                    images = await self._generate(number, indices)
                except GenerationRefusedError as error:
                    failures.add(error, indices)
                    return
                except Exception as error:
                    failures.add(_as_reasoner_error(error, generator.name))
                    return
                for index, image in zip(indices, images, strict=False):
                    version = run.state.prompt_version(number)
                    run.emit(
                        ImageReady(round=number, index=index, prompt_version=version, image=image)
                    )
                    judge(index)
                failures.emit_pending()
                if len(images) != len(indices):
                    wrong = _wrong_number(generator.name, len(images), len(indices))
                    failures.add(wrong, indices[len(images) :] if images else ())

        async with asyncio.TaskGroup() as calls:
            for indices in self._missing(number):
                calls.create_task(draw(indices))
        if failures.errors and not run.state.candidates:
            raise failures.error

    def _missing(self, number: int) -> Iterator[list[int]]:
        """The candidates of a round without an image, grouped by call."""
        state = self._run.state
        settled = state.candidates.keys() | state.without
        missing = [index for index in self._run.planned(number) if index not in settled]
        size = self._parts.generator.capabilities.max_images
        for first in range(0, len(missing), size):
            yield missing[first : first + size]

    async def _generate(self, number: int, indices: Sequence[int]) -> list[GeneratedImage]:
        run = self._run

        def on_step(done: StepProgress) -> None:
            index = indices[done.index]
            run.emit_from_any_thread(
                Step(round=number, index=index, step=done.step, total=done.total)
            )

        with run.stage("generate", round_number=number):
            generator = self._parts.generator
            images = generator.generate(
                run.state.prompt(number).prompt,
                seeds=[run.seed_of(index) for index in indices],
                settings=run.settings,
                on_step=on_step,
            )
            return await images_of(generator, images)

    async def _judge(self, index: int, criteria: asyncio.Task[Rubric | None]) -> None:
        run, judge = self._run, self._parts.judge
        rubric, candidate = await criteria, run.state.candidates[index]
        if judge is None or rubric is None:
            return
        if candidate.verdict is not None or candidate.failure is not None or not self._may_call():
            return
        try:
            with run.stage("judge", index=index):
                verdict = await verdict_of(judge, candidate.image, rubric)
        except Exception as error:
            run.emit(StageFailed(index=index, failure=StageFailure.of("judge", error)))
            return
        run.emit(Judged(index=index, verdict=verdict))

    def _judged(self, number: int) -> list[Candidate]:
        candidates = self._run.state.candidates
        drawn = (candidates[i] for i in self._run.planned(number) if i in candidates)
        return [candidate for candidate in drawn if candidate.verdict is not None]

    def _diagnose(self, number: int) -> None:
        state = self._run.state
        report = state.reports.get(state.prompt(number).prompt)
        for candidate in self._judged(number):
            if candidate.verdict is None or state.rubric is None or candidate.problems:
                continue
            problems = diagnose(candidate.verdict, state.rubric, report)
            if problems:
                self._run.emit(Diagnosed(index=candidate.index, problems=problems))

    def _stop_reason(self, number: int) -> StopReason | None:
        run, limits = self._run, self._run.limits
        verdicts = [c.verdict for c in self._judged(number) if c.verdict is not None]
        scores = [v.least_score for v in verdicts if v.least_score is not None]
        if scores and max(scores) >= limits.target_score:
            return "target_reached"
        drawn = run.state.candidates.keys() & run.planned(number)
        if run.state.has_failed("generate") or (run.state.without and not drawn):
            return "generator_failed"
        reason = run.exhausted
        if reason not in {None, "interrupted"}:
            return reason
        if not scores:
            return "unjudged"
        if number + 1 == limits.max_rounds:
            return "max_rounds"
        return None if run.planned(number + 1) else "max_images"

    async def _revise(self, number: int) -> None:
        """Revise the prompt for the next round, if new seeds alone would not help."""
        run, reviser, following = self._run, self._parts.reviser, number + 1
        problems = prompt_problems([candidate.problems for candidate in self._judged(number)])
        if reviser is None or not problems:
            return
        decided = any(revised.round == following for revised in run.state.revisions)
        if decided or run.state.has_failed("revise", following) or not self._may_call():
            return
        current = run.state.prompt(number)
        try:
            with run.stage("revise", round_number=following):
                revised = reviser.revise(run.request, current, problems)
                rewrite = await answer_of("reviser", revised, Rewrite)
        except Exception as error:
            run.emit(StageFailed(round=following, failure=StageFailure.of("revise", error)))
            return
        version = len(run.state.prompts)
        run.emit(
            Revised(round=following, prompt_version=version, rewrite=rewrite, problems=problems)
        )


class _GenerationFailures:
    """Failures while generating a round. They are emitted once the run has an image.

    Attributes:
        errors: All failures, in the order in which they occurred.
        whole: The first failure that concerns more than single images.
    """

    def __init__(self, run: ActiveRun, number: int) -> None:
        self._run = run
        self._round = number
        self._pending: list[StageFailed] = []
        self.errors: list[ReasonerError] = []
        self.whole: ReasonerError | None = None

    def add(self, error: ReasonerError, indices: Sequence[int] = ()) -> None:
        """Add a failed call; with `indices`, it concerns only these images."""
        self.errors.append(error)
        if not indices:
            self.whole = self.whole or error
        failure = StageFailure.of("generate", error)
        self._run.unreported += failure.usage
        for index in indices or (None,):
            self._pending.append(StageFailed(round=self._round, index=index, failure=failure))
            # One call for several images is only paid for once.
            failure = failure.model_copy(update={"usage": Usage.zero()})
        self.emit_pending()

    def emit_pending(self) -> None:
        """Emit the failures, unless the run may still end with them as its error."""
        if self._run.state.candidates:
            self._run.unreported = Usage.zero()
            for event in self._pending:
                self._run.emit(event)
            self._pending.clear()

    @property
    def error(self) -> ReasonerError:
        """The error that ends a run without any image; its usage covers all failures."""
        error = self.whole or self.errors[0]
        if isinstance(error, GeneratorError) and len(self.errors) > 1:
            error.usage = self._run.unreported
        return error


def _wrong_number(name: str, drawn: int, asked: int) -> GeneratorError:
    return GeneratorError(
        f"{name!r} returned {drawn} images for {asked} seeds.",
        # Images that were returned carry the usage of the call.
        usage=Usage.zero() if drawn else None,
        hint="Its moderation may have removed the others. Your own generator must return one "
        "image per seed.",
    )


def _as_reasoner_error(error: Exception, name: str) -> ReasonerError:
    if isinstance(error, ReasonerError):
        return error
    wrapped = GeneratorError(
        f"The generator {name!r} failed: {type(error).__name__}: {error}",
        hint="The original error is the cause of this one.",
    )
    wrapped.__cause__ = error
    return wrapped
