"""What the client is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, JsonValue

from lens_reasoner import ImageRequest, LoopLimits, Rubric, Verdict
from lens_reasoner.types import Value

RunStatus = Literal["running", "finished", "cancelled", "failed", "interrupted"]


@dataclass(frozen=True)
class Timeouts:
    """Seconds that calls to a server may take; None is no limit.

    Attributes:
        connect: For the connection.
        first_byte: From asking to the first byte of an answer, drawing included.
        silence: Between two events of a run; the server shows signs of life every 15 seconds.
        total: For a whole call, retries included; for a run, until its last event.
    """

    connect: float | None = 5.0
    first_byte: float | None = 600.0
    silence: float | None = 60.0
    total: float | None = None


@dataclass(frozen=True)
class Edit:
    """A picture to change, and how.

    Attributes:
        image: The picture file.
        mask: A PNG file of the same size, transparent where the picture may change.
        extra: Settings that only some generators know, such as `strength`.
    """

    image: bytes = field(repr=False)
    mask: bytes | None = field(default=None, repr=False)
    extra: dict[str, JsonValue] = field(default_factory=dict)


class Judgement(Value):
    """A picture held against a request.

    Attributes:
        rubric: The criteria.
        verdict: What the judge answered.
    """

    rubric: Rubric
    verdict: Verdict

    @property
    def score(self) -> float | None:
        """The verdict's score; None, and not zero, if nothing could be told."""
        return self.verdict.score

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import verdict_list

        return verdict_list(self.verdict, self.rubric)


class RunInfo(Value):
    """A recorded run in a few words.

    Attributes:
        id: Its name.
        created_at: When it began, in seconds since 1970.
        status: What became of it.
        request: What was asked for.
        limits: When it ends.
        events: How many events are recorded.
        error: Why it failed, if it did.
    """

    id: str
    created_at: int
    status: RunStatus
    request: ImageRequest
    limits: LoopLimits
    events: int = Field(ge=0)
    error: dict[str, Any] | None = None
