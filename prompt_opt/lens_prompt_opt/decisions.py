"""Decisions about challengers, with their evidence."""

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
        mean: Mean score difference so far.
        evidence: Progress towards acceptance: 0 at the start, 1 at acceptance.
    """

    requests: int
    mean: float
    evidence: float


class Decision(Value):
    """The outcome of one challenge.

    Attributes:
        challenger: Its id.
        incumbent: Id of the candidate it was compared with.
        number: Number of the challenge in the study, from 1.
        level: Error rate of this test.
        verdict: "better" means accepted; "guarded" means better but rejected by a guard.
        gain: Mean score difference on the requests compared; None if there were none.
        interval: Confidence interval of the gain, valid however early the test stopped.
        requests: Requests compared.
        images: Images generated for the challenge.
        looks: The test's state after each block.
        guards: Guard findings against the challenger.
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
