"""When a run ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from lens_reasoner.types import Options, Probability


class LoopLimits(Options):
    """When a run ends; whatever comes first ends it, with the best image so far.

    The cost limit is checked before every call: nothing new begins once it is reached, and what is
    under way then is finished and counted, so a run may end above it by those calls. A cost that
    turns out to be unknown ends a run that has a cost limit, as "cost_unknown": the limit could
    not be kept, and is never ignored. Images cost what their `usage` says: a generator of your
    own that is paid for has to set it, as its default is nothing.

    Attributes:
        max_rounds: Most rounds.
        target_score: The score, from 0 to 1, that is good enough; answers that got lost count as
            no.
        max_images: Most images in all rounds together; the last round is cut short to fit.
        max_usd: Most to spend, in US dollars.
        deadline: Most seconds on the clock; what is under way then is given up. Where a run was
            killed and resumed, the time between does not count.
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
