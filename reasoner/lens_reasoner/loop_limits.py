"""When a run ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from lens_reasoner.types import Options, Probability


class LoopLimits(Options):
    """When a run ends; the first limit reached ends it, with the best image so far.

    The cost limit is checked before every call. Once it is reached, no call starts; calls in flight
    are finished and counted, so a run can exceed the limit by those. In a run with a cost limit, a
    call of unknown cost ends the run as "cost_unknown". The cost of an image is what its `usage`
    says: a paid generator of your own must set it, because the default is 0.

    Attributes:
        max_rounds: Maximum number of rounds.
        target_score: The score, from 0 to 1, that is good enough; failed judge calls count as "no".
        max_images: Maximum number of images in all rounds; the last round is shortened to fit.
        max_usd: Maximum cost in US dollars.
        deadline: Maximum seconds of wall-clock time; calls in flight are then abandoned. Time
            between an interruption and `resume` does not count.
    """

    MEANT: ClassVar[Mapping[str, str]] = {
        "max_cost": "max_usd",
        "seconds": "deadline",
        "target": "target_score",
        "timeout": "deadline",
        "usd": "max_usd",
    }

    max_rounds: int = Field(default=1, ge=1)
    target_score: Probability = 1.0
    max_images: int | None = Field(default=None, ge=1)
    max_usd: float | None = Field(default=None, gt=0)
    deadline: float | None = Field(default=None, gt=0)
