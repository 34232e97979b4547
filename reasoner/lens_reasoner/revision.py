"""The seams between judging an image and trying again: fidelity, diagnosis, revision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from lens_reasoner.types import ImageRequest, Rewrite, Rubric, Seconds, Usage, Value

Statement = Literal["stated", "missing", "contradicted"]
"""What a prompt says about a criterion."""

Fault = Literal["reasoner", "generator", "judge"]
"""Who is to blame for a criterion that was not met."""


class FidelityFinding(Value):
    """What the prompt says about one criterion of the request.

    Attributes:
        criterion: Name of the criterion.
        status: Whether the prompt states it, leaves it out or says otherwise.
        evidence: The words of the prompt that decide it; empty if it is missing.
    """

    criterion: str
    status: Statement
    evidence: str = ""


class FidelityReport(Value):
    """Whether a rewritten prompt still says what was asked for.

    Attributes:
        prompt: The prompt that was checked.
        findings: One for each criterion that can be looked up in a text.
        checker: Name of the model or method.
        usage: What checking consumed.
        seconds: How long it took.
    """

    prompt: str
    findings: tuple[FidelityFinding, ...]
    checker: str
    usage: Usage = Usage()
    seconds: Seconds = 0.0

    @property
    def lost(self) -> tuple[FidelityFinding, ...]:
        """What the prompt leaves out or contradicts."""
        return tuple(finding for finding in self.findings if finding.status != "stated")

    def status(self, criterion: str) -> Statement | None:
        """What is known of a criterion; None if it was not looked up."""
        known = {finding.criterion: finding.status for finding in self.findings}
        return known.get(criterion)


@runtime_checkable
class FidelityChecker(Protocol):
    """Anything that looks a rubric's criteria up in a prompt."""

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """Look up every criterion of `rubric` that comes from the request.

        Raises:
            ReasonerError: If there is no finding at all.
        """
        ...


class Problem(Value):
    """One criterion that an image did not meet, and why, as far as can be told.

    Attributes:
        criterion: Name of the criterion.
        question: The criterion's question.
        source: The words of the request it comes from.
        evidence: What the judge saw instead.
        fault: "reasoner" if the prompt did not state it, "generator" if it did and it was not
            drawn, "judge" if votes about the same image disagree.
    """

    criterion: str
    question: str
    source: str = ""
    evidence: str = ""
    fault: Fault


@runtime_checkable
class Reviser(Protocol):
    """Anything that mends a prompt after images made from it were judged."""

    async def revise(
        self, request: ImageRequest, current: Rewrite, problems: Sequence[Problem]
    ) -> Rewrite:
        """A prompt that should avoid `problems`; its `usage` is this revision's alone.

        Raises:
            ReasonerError: If there is no usable prompt.
        """
        ...
