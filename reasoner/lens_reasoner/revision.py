"""Protocols and values between judging and the next round: fidelity, problems, revision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from lens_reasoner.types import ImageRequest, Rewrite, Rubric, Seconds, Usage, Value

Statement = Literal["stated", "missing", "contradicted"]
"""What a prompt says about a criterion."""

Fault = Literal["reasoner", "generator", "judge"]
"""Which part is at fault for a criterion that was not met."""


class FidelityFinding(Value):
    """What the prompt says about one criterion of the request.

    Attributes:
        criterion: Name of the criterion.
        status: Whether the prompt states it, omits it or contradicts it.
        evidence: The passage of the prompt that decides; empty if the criterion is missing.
    """

    criterion: str
    status: Statement
    evidence: str = ""


class FidelityReport(Value):
    """Whether a rewritten prompt still states what was asked for.

    Attributes:
        prompt: The prompt that was checked.
        findings: One per criterion that can be checked against a text.
        checker: Name of the model or method.
        usage: What checking consumed.
        seconds: Duration of checking.
    """

    prompt: str
    findings: tuple[FidelityFinding, ...]
    checker: str
    usage: Usage = Usage()
    seconds: Seconds = 0.0

    @property
    def lost(self) -> tuple[FidelityFinding, ...]:
        """Findings that the prompt omits or contradicts."""
        return tuple(finding for finding in self.findings if finding.status != "stated")

    def status(self, criterion: str) -> Statement | None:
        """The finding's status; None if the criterion was not checked."""
        known = {finding.criterion: finding.status for finding in self.findings}
        return known.get(criterion)


@runtime_checkable
class FidelityChecker(Protocol):
    """Checks which criteria of a rubric a prompt states."""

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """Check every criterion of `rubric` that comes from the request.

        Raises:
            ReasonerError: Nothing could be checked.
        """
        ...


class Problem(Value):
    """A criterion that an image did not meet, and the likely cause.

    Attributes:
        criterion: Name of the criterion.
        question: The criterion's question.
        source: The part of the request it comes from.
        evidence: What the judge saw instead.
        fault: "reasoner" if the prompt did not state the criterion, "generator" if it did and the
            image lacks it, "judge" if votes on the same image disagree.
    """

    criterion: str
    question: str
    source: str = ""
    evidence: str = ""
    fault: Fault


@runtime_checkable
class Reviser(Protocol):
    """Revises a prompt after its images were judged."""

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        """Write a prompt that should avoid `problems`; its `usage` covers this revision only.

        Raises:
            ReasonerError: No usable prompt was written.
        """
        ...
