"""What happens during a run, as values; a run's result is a fold over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from lens_reasoner.errors import ReasonerError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import ImageRequest, Refused, Rewrite, Rubric, Seconds, Seed, Usage, Value
from lens_reasoner.verdict import Verdict

Stage = Literal["rubric", "generate", "judge"]
StopReason = Literal[
    "target_reached", "max_rounds", "unjudged", "refused", "generator_failed", "interrupted"
]
"""Why a run ended; "unjudged": no score could be had, "interrupted": it did not come to its end."""


class StageFailure(Value):
    """A failure that did not end the run with an error.

    Attributes:
        stage: Where it happened.
        error: Name of the error's class.
        message: What was wrong.
        hint: What to do about it.
        usage: What the failed call consumed; unknown unless the error says.
    """

    stage: Stage
    error: str
    message: str
    hint: str = ""
    usage: Usage = Usage()

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> StageFailure:
        """The record of `error`."""
        known = error if isinstance(error, ReasonerError) else None
        return cls(
            stage=stage,
            error=type(error).__name__,
            message=known.message if known else str(error),
            hint=known.hint if known else "",
            usage=getattr(error, "usage", None) or Usage(),
        )


class Started(Value):
    """The run begins; `seed` is the first candidate's, drawn at random if none was asked for."""

    type: Literal["started"] = "started"
    request: ImageRequest
    seed: Seed


class RewriteDone(Value):
    """The prompt is written, or the request refused."""

    type: Literal["rewrite_done"] = "rewrite_done"
    outcome: Rewrite | Refused


class RubricDone(Value):
    """The criteria are there; `written` tells whether this run paid for them."""

    type: Literal["rubric_done"] = "rubric_done"
    rubric: Rubric
    written: bool


class Step(Value):
    """A sampler step of candidate `index` (or of the batch starting with it) is done."""

    type: Literal["step"] = "step"
    round: int
    index: int
    step: int
    total: int


class ImageReady(Value):
    """Candidate `index`, counted through all rounds, is drawn."""

    type: Literal["image_ready"] = "image_ready"
    round: int
    index: int
    image: GeneratedImage


class Judged(Value):
    """Candidate `index` has its verdict."""

    type: Literal["judged"] = "judged"
    index: int
    verdict: Verdict


class StageFailed(Value):
    """Something failed and the run goes on without it; `index` names the candidate, if one."""

    type: Literal["stage_failed"] = "stage_failed"
    index: int | None = None
    failure: StageFailure


class Finished(Value):
    """The run is over; `best` is the index of the best candidate, if there is any.

    `timings` are wall-clock seconds by stage, with "total".
    """

    type: Literal["finished"] = "finished"
    stop_reason: StopReason
    best: int | None
    timings: dict[str, Seconds]


Event = Annotated[
    Started | RewriteDone | RubricDone | Step | ImageReady | Judged | StageFailed | Finished,
    Field(discriminator="type"),
]


class Candidate(Value):
    """One picture of a run and what became of it.

    Attributes:
        image: The picture.
        round: The round it was drawn in, from 0.
        verdict: What the judge said; None if it was not asked or failed.
        failure: Why there is no verdict, if the judge failed.
    """

    image: GeneratedImage
    round: int
    verdict: Verdict | None = None
    failure: StageFailure | None = None

    @property
    def score(self) -> float | None:
        """The verdict's score; None, and not zero, if there is none."""
        return None if self.verdict is None else self.verdict.score


class LoopResult(Value):
    """Everything one run produced.

    Attributes:
        request: What was asked for.
        rewrite: The rewritten prompt or the refusal; None if rewriting was left out.
        rubric: The criteria; None if there was no judging or no rubric could be written.
        candidates: All pictures in the order they were drawn.
        best_index: The best candidate; None if nothing was drawn.
        stop_reason: Why the run ended.
        failures: What failed besides single verdicts.
        timings: Wall-clock seconds by stage, with "total".
        usage: What all calls together consumed.
    """

    request: ImageRequest
    rewrite: Rewrite | Refused | None
    rubric: Rubric | None
    candidates: tuple[Candidate, ...]
    best_index: int | None
    stop_reason: StopReason
    failures: tuple[StageFailure, ...]
    timings: dict[str, Seconds]
    usage: Usage

    @property
    def best(self) -> Candidate | None:
        """The best candidate, if anything was drawn."""
        return None if self.best_index is None else self.candidates[self.best_index]

    @property
    def refused(self) -> Refused | None:
        """The refusal, if the request was refused."""
        return self.rewrite if isinstance(self.rewrite, Refused) else None


class RunState:
    """What is known of a run so far; `apply` its events in order."""

    def __init__(self) -> None:
        self.request: ImageRequest | None = None
        self.rewrite: Rewrite | Refused | None = None
        self.rubric: Rubric | None = None
        self.candidates: list[Candidate] = []
        self.failures: list[StageFailure] = []
        self._spent: list[Usage] = []
        self._finished: Finished | None = None

    def apply(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case Started():
                self.request = event.request
            case RewriteDone():
                self.rewrite = event.outcome
                self._spent.append(event.outcome.usage)
            case RubricDone():
                self.rubric = event.rubric
                if event.written:
                    self._spent.append(event.rubric.usage)
            case ImageReady():
                self.candidates.append(Candidate(image=event.image, round=event.round))
                self._spent.append(event.image.usage)
            case Judged():
                self._update(event.index, verdict=event.verdict)
                self._spent.append(event.verdict.usage)
            case StageFailed():
                if event.index is None:
                    self.failures.append(event.failure)
                else:
                    self._update(event.index, failure=event.failure)
                if event.failure.stage != "generate":
                    self._spent.append(event.failure.usage)
            case Finished():
                self._finished = event
            case Step():
                pass

    def _update(self, index: int, **changes: object) -> None:
        self.candidates[index] = self.candidates[index].model_copy(update=changes)

    @property
    def best_index(self) -> int | None:
        """The highest score, then the most criteria answered, then the earliest.

        A candidate without a score stands behind all that have one, whatever theirs is.
        """

        def rank(index: int) -> tuple[float, float, int]:
            candidate = self.candidates[index]
            score = -1.0 if candidate.score is None else candidate.score
            coverage = candidate.verdict.coverage if candidate.verdict else 0.0
            return score, coverage, -index

        return max(range(len(self.candidates)), key=rank, default=None)

    def result(self) -> LoopResult:
        """The run's result, or what there is of it if it was cut short.

        Raises:
            ValueError: If not even the start was seen.
        """
        if self.request is None:
            raise ValueError("a run's events begin with Started")
        finished = self._finished
        return LoopResult(
            request=self.request,
            rewrite=self.rewrite,
            rubric=self.rubric,
            candidates=tuple(self.candidates),
            best_index=self.best_index,
            stop_reason=finished.stop_reason if finished else "interrupted",
            failures=tuple(self.failures),
            timings=finished.timings if finished else {},
            usage=Usage.total(self._spent),
        )


def fold_events(events: Iterable[Event]) -> LoopResult:
    """The result of a run from its events."""
    state = RunState()
    for event in events:
        state.apply(event)
    return state.result()
