"""The events of a run; a run's result is a fold over them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lens_reasoner.errors import ReasonerError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.redaction import without_keys
from lens_reasoner.revision import FidelityReport, Problem
from lens_reasoner.types import (
    ImageRequest,
    Refused,
    Rewrite,
    Rubric,
    Seconds,
    Seed,
    Usage,
    Value,
)
from lens_reasoner.verdict import Verdict

Stage = Literal["rewrite", "rubric", "fidelity", "generate", "judge", "revise"]
StopReason = Literal[
    "target_reached",
    "max_rounds",
    "max_images",
    "max_cost",
    "cost_unknown",
    "deadline",
    "unjudged",
    "refused",
    "generator_failed",
    "interrupted",
]
"""Why a run ended.

"max_rounds", "max_images", "max_cost" and "deadline" are limits. "cost_unknown": the run has a cost
limit, and the cost of a call is unknown. "unjudged": no image could be scored. "interrupted": the
run did not finish.
"""


class StageFailure(Value):
    """A failure that did not abort the run.

    Attributes:
        stage: The stage that failed.
        error: Name of the error's class.
        message: What went wrong.
        hint: What to do about it.
        usage: What the failed call consumed; unknown unless the error says so.
        fault: Kind of the underlying service failure, as in `ChatError`; None if there was none.
    """

    stage: Stage
    error: str
    message: str
    hint: str = ""
    usage: Usage = Usage()
    fault: str | None = None

    def __str__(self) -> str:
        """The message followed by the hint."""
        return f"{self.message} {self.hint}".strip()

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> StageFailure:
        """The record of `error`."""
        known = error if isinstance(error, ReasonerError) else None
        return cls(
            stage=stage,
            error=type(error).__name__,
            # User code may put a key into its message, which goes to disk and into reports.
            message=without_keys(known.message if known else str(error)),
            hint=without_keys(known.hint) if known else "",
            usage=getattr(error, "usage", None) or Usage(),
            fault=getattr(error, "fault", getattr(error.__cause__, "fault", None)),
        )


class Started(Value):
    """The run begins. `seed` is the first candidate's, chosen at random if the request has none."""

    type: Literal["started"] = "started"
    request: ImageRequest
    seed: Seed


class RewriteDone(Value):
    """The prompt is written, or the request is refused."""

    type: Literal["rewrite_done"] = "rewrite_done"
    outcome: Rewrite | Refused


class RubricDone(Value):
    """The criteria are ready; `written` says whether this run wrote (and paid for) them."""

    type: Literal["rubric_done"] = "rubric_done"
    rubric: Rubric
    written: bool


class FidelityChecked(Value):
    """What the prompt, first used in `round`, says about the criteria."""

    type: Literal["fidelity_checked"] = "fidelity_checked"
    round: int
    report: FidelityReport


class Step(Value):
    """A sampler step of candidate `index` (or of the batch that starts with it) is done."""

    type: Literal["step"] = "step"
    round: int
    index: int
    step: int
    total: int


class ImageReady(Value):
    """Candidate `index`, counted across all rounds, was generated from prompt `prompt_version`.

    Images that are generated in parallel may arrive in any order.
    """

    type: Literal["image_ready"] = "image_ready"
    round: int
    index: int
    prompt_version: int = 0
    image: GeneratedImage


class Judged(Value):
    """The verdict on candidate `index`."""

    type: Literal["judged"] = "judged"
    index: int
    verdict: Verdict


class Diagnosed(Value):
    """Which part is at fault for what candidate `index` lacks."""

    type: Literal["diagnosed"] = "diagnosed"
    index: int
    problems: tuple[Problem, ...]


class Revised(Value):
    """From round `round` on, images are generated from a new prompt, because of `problems`."""

    type: Literal["revised"] = "revised"
    round: int
    prompt_version: int
    rewrite: Rewrite
    problems: tuple[Problem, ...]


class StageFailed(Value):
    """Something failed and the run continues without it.

    `index` is set if the failure concerns one candidate, `round` if it concerns one round.
    """

    type: Literal["stage_failed"] = "stage_failed"
    index: int | None = None
    round: int | None = None
    failure: StageFailure


class Finished(Value):
    """The run is over; `best` is the `index` of the best candidate, None if there is none.

    `timings` are wall-clock seconds by stage, with "total"; stages overlap.
    """

    type: Literal["finished"] = "finished"
    stop_reason: StopReason
    best: int | None
    timings: dict[str, Seconds]


Event = Annotated[
    Started
    | RewriteDone
    | RubricDone
    | FidelityChecked
    | Step
    | ImageReady
    | Judged
    | Diagnosed
    | Revised
    | StageFailed
    | Finished,
    Field(discriminator="type"),
]


def read_event(data: object) -> Event:
    """Parse an event from a JSON object.

    Raises:
        ValidationError: The object is not an event.
    """
    event: Event = _adapter().validate_python(data)
    return event


@cache
def _adapter() -> TypeAdapter[Event]:
    return TypeAdapter(Event)
