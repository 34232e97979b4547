"""What was decided about a challenger, and on what evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lens_prompt_opt.guards import GuardFinding
from lens_reasoner.types import Value

Verdict = Literal["better", "worse", "no_difference", "out_of_budget", "guarded"]


class Look(Value):
    """The state of a test after one block.

    Attributes:
        requests: Requests compared so far.
        mean: Mean difference so far.
        evidence: 0 at the start, 1 at acceptance.
    """

    requests: int
    mean: float
    evidence: float


class Decision(Value):
    """The end of one challenge.

    Attributes:
        challenger: Its id.
        incumbent: Id of what it was held against.
        number: Number of the challenge in the study, from 1.
        level: Error rate of this test.
        verdict: "better" accepts; "guarded" means better but not allowed.
        gain: Mean difference of score on the requests compared; None if there were none.
        interval: Interval of the gain, valid however early the test stopped.
        requests: Requests compared.
        images: Images drawn for it.
        looks: The test's state after each block.
        guards: What the challenger ran into.
    """

    challenger: str
    incumbent: str
    number: int = Field(ge=1)
    level: float
    verdict: Verdict
    gain: float | None
    interval: tuple[float, float]
    requests: int
    images: int
    looks: tuple[Look, ...] = ()
    guards: tuple[GuardFinding, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the challenger became the incumbent."""
        return self.verdict == "better"
