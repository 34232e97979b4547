"""Arguments and results of the client's calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, JsonValue

from lens_reasoner import ImageRequest, LoopLimits, Rubric, Verdict
from lens_reasoner.types import Value

RunStatus = Literal["running", "finished", "cancelled", "failed", "interrupted"]


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds for calls to a server; None means no limit.

    Attributes:
        connect: For opening the connection.
        first_byte: From the request to the first byte of the answer, including generation.
        silence: Between two events of a run; the server sends a keep-alive every 15 seconds.
        total: For a whole call, including retries; for a run, until its last event.
    """

    connect: float | None = 5.0
    first_byte: float | None = 600.0
    silence: float | None = 60.0
    total: float | None = None


@dataclass(frozen=True)
class Edit:
    """An image to edit, and how.

    Attributes:
        image: The image file.
        mask: A PNG file of the same size, transparent where the image may change.
        extra: Generator-specific settings, such as `strength`.
    """

    image: bytes = field(repr=False)
    mask: bytes | None = field(default=None, repr=False)
    extra: dict[str, JsonValue] = field(default_factory=dict)


class Judgement(Value):
    """How well an image fulfils a request.

    Attributes:
        rubric: The criteria.
        verdict: The judge's answers.
    """

    rubric: Rubric
    verdict: Verdict

    @property
    def score(self) -> float | None:
        """The verdict's score; None, not zero, if the judge could not decide any criterion."""
        return self.verdict.score

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import verdict_list

        return verdict_list(self.verdict, self.rubric)


class RunInfo(Value):
    """Summary of a recorded run.

    Attributes:
        id: ID of the run.
        created_at: Start time, in seconds since 1970.
        status: Whether the run is in progress, or how it ended.
        request: The request.
        limits: When the run ends.
        events: Number of recorded events.
        error: Why the run failed, if it did.
    """

    id: str
    created_at: int
    status: RunStatus
    request: ImageRequest
    limits: LoopLimits
    events: int = Field(ge=0)
    error: dict[str, Any] | None = None
