"""A run's result as a fold over its events."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from lens_reasoner.events import (
    Diagnosed,
    Event,
    FidelityChecked,
    Finished,
    ImageReady,
    Judged,
    Revised,
    RewriteDone,
    RubricDone,
    Stage,
    StageFailed,
    StageFailure,
    Started,
    Step,
    StopReason,
)
from lens_reasoner.image import GeneratedImage
from lens_reasoner.revision import FidelityReport, Problem
from lens_reasoner.types import ImageRequest, Refused, Rewrite, Rubric, Seconds, Usage, Value
from lens_reasoner.verdict import Verdict


class Candidate(Value):
    """One image of a run, with its verdict and problems.

    Attributes:
        image: The image.
        index: Its number across the run; events refer to it by this number.
        round: The round it belongs to, from 0.
        prompt_version: Which of the run's prompts it was generated from.
        verdict: The judge's verdict; None if there was no judge or judging failed.
        problems: What it lacks, and which part is at fault.
        failure: Why there is no verdict, if judging failed.
    """

    image: GeneratedImage
    index: int = 0
    round: int
    prompt_version: int = 0
    verdict: Verdict | None = None
    problems: tuple[Problem, ...] = ()
    failure: StageFailure | None = None

    @property
    def score(self) -> float | None:
        """The verdict's score; None if there is none."""
        return None if self.verdict is None else self.verdict.score

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import side_by_side

        return side_by_side([("", self)], None)

    def _repr_png_(self) -> bytes:
        return self.image.png


class LoopResult(Value):
    """Everything one run produced.

    Attributes:
        request: The request.
        rewrite: The rewritten prompt or the refusal; None without a reasoner.
        prompts: Every prompt of the run, by `Candidate.prompt_version`: the first, then one per
            revision.
        fidelity: Which criteria the prompts state, as far as checked; each report names its prompt.
        rubric: The criteria; None without a judge, or if no rubric could be written.
        candidates: All images in order of their index.
        best_index: Position of the best candidate in `candidates`; None if there is none.
        stop_reason: Why the run ended.
        failures: Failures other than those of single verdicts.
        timings: Wall-clock seconds by stage, with "total"; stages overlap.
        usage: What all calls together consumed.
        usage_by_stage: The same by stage.
    """

    request: ImageRequest
    rewrite: Rewrite | Refused | None
    prompts: tuple[Rewrite, ...] = ()
    fidelity: tuple[FidelityReport, ...] = ()
    rubric: Rubric | None
    candidates: tuple[Candidate, ...]
    best_index: int | None
    stop_reason: StopReason
    failures: tuple[StageFailure, ...]
    timings: dict[str, Seconds]
    usage: Usage
    usage_by_stage: dict[Stage, Usage] = Field(default_factory=dict)

    @property
    def best(self) -> Candidate | None:
        """The best candidate; None if no image was generated."""
        return None if self.best_index is None else self.candidates[self.best_index]

    @property
    def refused(self) -> Refused | None:
        """The refusal; None if the request was not refused."""
        return self.rewrite if isinstance(self.rewrite, Refused) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What failed besides single verdicts, in words, each once."""
        return tuple(dict.fromkeys(map(str, self.failures)))

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import run

        return run(self)

    def _repr_png_(self) -> bytes | None:
        return None if self.best is None else self.best.image.png


class RunState:
    """The state of a run so far; `apply` its events in order."""

    def __init__(self) -> None:
        self.request: ImageRequest | None = None
        self.seed = 0
        self.rewrite: Rewrite | Refused | None = None
        self.rubric: Rubric | None = None
        self.revisions: list[Revised] = []
        self.reports: dict[str, FidelityReport] = {}
        self.candidates: dict[int, Candidate] = {}
        self.failed: list[StageFailed] = []
        self.spent: dict[Stage, Usage] = {}
        self.finished: Finished | None = None

    def apply(self, event: Event) -> None:
        """Update the state with one event."""
        self.reopen()
        match event:
            case Started():
                self.request, self.seed = event.request, event.seed
            case RewriteDone():
                self.rewrite = event.outcome
                self._spend("rewrite", event.outcome.usage)
            case RubricDone():
                self.rubric = event.rubric
                if event.written:
                    self._spend("rubric", event.rubric.usage)
            case FidelityChecked():
                self.reports[self.prompt(event.round).prompt] = event.report
                self._spend("fidelity", event.report.usage)
            case ImageReady():
                self._take_image(event)
            case Judged():
                self._update(event.index, verdict=event.verdict)
                self._spend("judge", event.verdict.usage)
            case Diagnosed():
                self._update(event.index, problems=event.problems)
            case Revised():
                self.revisions.append(event)
                self._spend("revise", event.rewrite.usage)
            case StageFailed():
                self._take_failure(event)
            case Finished():
                self.finished = event
            case Step():
                pass

    @property
    def unasked(self) -> bool:
        """Whether the run ended unjudged because a judge was unreachable."""
        if self.finished is None or self.finished.stop_reason != "unjudged":
            return False
        asked = [c.failure for c in self.candidates.values() if c.failure is not None]
        asked += [failed.failure for failed in self.failed if failed.failure.stage == "rubric"]
        # A call with known usage was answered; asked again, the answer would be the same.
        return any(failure.usage == Usage() for failure in asked)

    def reopen(self) -> None:
        """Discard the end of a run whose judge was unreachable, to ask it again."""
        if not self.unasked:
            return
        self.finished = None
        for index in self.candidates:
            self._update(index, failure=None)
        self.failed = [f for f in self.failed if f.failure.stage not in {"rubric", "fidelity"}]

    def _take_image(self, event: ImageReady) -> None:
        self.candidates[event.index] = Candidate(
            image=event.image,
            index=event.index,
            round=event.round,
            prompt_version=event.prompt_version,
        )
        self._spend("generate", event.image.usage)

    def _take_failure(self, event: StageFailed) -> None:
        if event.index in self.candidates:
            self._update(event.index, failure=event.failure)
        else:
            self.failed.append(event)
        self._spend(event.failure.stage, event.failure.usage)

    def _update(self, index: int, **changes: object) -> None:
        self.candidates[index] = self.candidates[index].model_copy(update=changes)

    def _spend(self, stage: Stage, usage: Usage) -> None:
        self.spent[stage] = self.spent.get(stage, Usage.zero()) + usage

    @property
    def usage(self) -> Usage:
        """What all calls so far consumed."""
        return Usage.total(self.spent.values())

    @property
    def prompts(self) -> list[Rewrite]:
        """All prompts so far; without a reasoner, the first is the request itself."""
        first = self.rewrite
        if first is None and self.request is not None:
            text = self.request.text
            first = Rewrite(request=text, prompt=text, model="none", usage=Usage.zero())
        if not isinstance(first, Rewrite):
            return []
        return [first, *(revised.rewrite for revised in self.revisions)]

    def prompt_version(self, round_number: int) -> int:
        """Index in `prompts` of the prompt that a round uses."""
        return sum(revised.round <= round_number for revised in self.revisions)

    def prompt(self, round_number: int) -> Rewrite:
        """The prompt that a round uses."""
        return self.prompts[self.prompt_version(round_number)]

    def has_failed(self, stage: Stage, round_number: int | None = None) -> bool:
        """Whether a stage failed as a whole, in the given round or in any."""
        return any(
            failed.failure.stage == stage
            and failed.index is None
            and round_number in {None, failed.round}
            for failed in self.failed
        )

    @property
    def without(self) -> set[int]:
        """Indexes without an image: refused, or missing from the generator's answer."""
        return {failed.index for failed in self.failed if failed.index is not None}

    @property
    def best(self) -> Candidate | None:
        """The candidate with the highest score, then the most answered criteria, then the earliest.

        Candidates without a score rank below all that have one. Failed judge calls count as "no".
        """

        def rank(candidate: Candidate) -> tuple[float, float, int]:
            verdict = candidate.verdict
            if verdict is None or verdict.least_score is None:
                return -1.0, 0.0, -candidate.index
            return verdict.least_score, verdict.coverage, -candidate.index

        return max(self.candidates.values(), key=rank, default=None)

    def result(self) -> LoopResult:
        """The run's result; if the run was cut short, the result so far.

        Raises:
            ValueError: The state has seen no `Started` event.
        """
        if self.request is None:
            raise ValueError("a run's events must begin with Started")
        finished, best = self.finished, self.best
        order = sorted(self.candidates)
        started = bool(order) or self.rewrite is not None
        return LoopResult(
            request=self.request,
            rewrite=self.rewrite,
            prompts=tuple(self.prompts) if started else (),
            fidelity=tuple(self.reports.values()),
            rubric=self.rubric,
            candidates=tuple(self.candidates[index] for index in order),
            best_index=None if best is None else order.index(best.index),
            stop_reason=finished.stop_reason if finished else "interrupted",
            failures=tuple(failed.failure for failed in self.failed),
            timings=finished.timings if finished else {},
            usage=self.usage,
            usage_by_stage=dict(self.spent),
        )


def fold_events(events: Iterable[Event]) -> LoopResult:
    """Compute a run's result from its events."""
    state = RunState()
    for event in events:
        state.apply(event)
    return state.result()
