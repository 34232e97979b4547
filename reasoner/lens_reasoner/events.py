"""What happens during a run, as values; a run's result is a fold over them."""

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

"max_rounds", "max_images", "max_cost" and "deadline" are limits; "cost_unknown": there is a cost
limit and a call whose cost nobody knows; "unjudged": no score could be had; "interrupted": it did
not come to its end.
"""


class StageFailure(Value):
    """A failure that did not end the run with an error.

    Attributes:
        stage: Where it happened.
        error: Name of the error's class.
        message: What was wrong.
        hint: What to do about it.
        usage: What the failed call consumed; unknown unless the error says.
        fault: The kind of a service's failure that was behind it, as in `ChatError`; None without.
    """

    stage: Stage
    error: str
    message: str
    hint: str = ""
    usage: Usage = Usage()
    fault: str | None = None

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> StageFailure:
        """The record of `error`."""
        known = error if isinstance(error, ReasonerError) else None
        return cls(
            stage=stage,
            error=type(error).__name__,
            # Whatever a part of the user's own says goes to disk and into reports.
            message=without_keys(known.message if known else str(error)),
            hint=without_keys(known.hint) if known else "",
            usage=getattr(error, "usage", None) or Usage(),
            fault=getattr(error, "fault", getattr(error.__cause__, "fault", None)),
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


class FidelityChecked(Value):
    """It is known what the prompt, first drawn from in `round`, says about the criteria."""

    type: Literal["fidelity_checked"] = "fidelity_checked"
    round: int
    report: FidelityReport


class Step(Value):
    """A sampler step of candidate `index` (or of the batch starting with it) is done."""

    type: Literal["step"] = "step"
    round: int
    index: int
    step: int
    total: int


class ImageReady(Value):
    """Candidate `index`, counted through all rounds, is drawn from prompt `prompt_version`.

    Where images are drawn in parallel, they are ready in any order.
    """

    type: Literal["image_ready"] = "image_ready"
    round: int
    index: int
    prompt_version: int = 0
    image: GeneratedImage


class Judged(Value):
    """Candidate `index` has its verdict."""

    type: Literal["judged"] = "judged"
    index: int
    verdict: Verdict


class Diagnosed(Value):
    """It is known who is to blame for what candidate `index` lacks."""

    type: Literal["diagnosed"] = "diagnosed"
    index: int
    problems: tuple[Problem, ...]


class Revised(Value):
    """Round `round` and those after it are drawn from a new prompt, because of `problems`."""

    type: Literal["revised"] = "revised"
    round: int
    prompt_version: int
    rewrite: Rewrite
    problems: tuple[Problem, ...]


class StageFailed(Value):
    """Something failed and the run goes on without it.

    `index` names the candidate where it is about one, `round` the round where it is about one.
    """

    type: Literal["stage_failed"] = "stage_failed"
    index: int | None = None
    round: int | None = None
    failure: StageFailure


class Finished(Value):
    """The run is over; `best` is the `index` of the best candidate, if there is any.

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
    """The event of a JSON object.

    Raises:
        ValidationError: If it is none.
    """
    event: Event = _adapter().validate_python(data)
    return event


@cache
def _adapter() -> TypeAdapter[Event]:
    return TypeAdapter(Event)
