"""What happened in a study, for its report; recomputed when a run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.failures import FailureMode, FailureReport
from lens_prompt_opt.guards import GuardFinding
from lens_reasoner.types import Value


class CandidateRecord(Value):
    """A candidate of the study.

    Attributes:
        candidate: The candidate.
        guards: Guard findings that kept it from being tried; empty if there are none.
    """

    candidate: Candidate
    guards: tuple[GuardFinding, ...] = ()


class FailureRecord(Value):
    """Failures under one candidate; the modes include examples."""

    candidate: str
    checked: int
    by_fault: dict[str, int]
    modes: tuple[FailureMode, ...]


class ScreenRecord(Value):
    """Screening result of a candidate on the search split; guidance for the search, not a claim.

    Attributes:
        candidate: Its id.
        reference: Id of the candidate it was compared with.
        images: Images spent on the candidate so far.
        gain: Estimated gain, shrunk towards zero.
        error: Standard error of `gain`.
    """

    candidate: str
    reference: str
    images: int = Field(ge=0)
    gain: float
    error: float


class HistoryRecord(Value):
    """The complete history, in order; see the methods of `History`."""

    candidates: tuple[CandidateRecord, ...]
    dropped: tuple[str, ...]
    failures: tuple[FailureRecord, ...]
    screens: tuple[ScreenRecord, ...]
    hypotheses: tuple[SectionEdit, ...]
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...]


def _nobody() -> None:
    pass


class History:
    """Collects what strategies and the gate do.

    Args:
        changed: Called after every entry.
    """

    def __init__(self, changed: Callable[[], None] = _nobody) -> None:
        self._changed = changed
        self._candidates: dict[str, CandidateRecord] = {}
        self._dropped: list[str] = []
        self._failures: list[FailureRecord] = []
        self._screens: list[ScreenRecord] = []
        self._hypotheses: list[SectionEdit] = []
        self._decisions: list[Decision] = []
        self._notes: list[str] = []

    def candidate(self, candidate: Candidate, guards: Sequence[GuardFinding] = ()) -> None:
        """Record a new candidate."""
        record = CandidateRecord(candidate=candidate, guards=tuple(guards))
        self._candidates.setdefault(candidate.id, record)
        self._changed()

    def dropped(self, parent: Candidate, why: str) -> None:
        """Record that edits of `parent` did not apply."""
        self._dropped.append(f"{parent.id}: {why}")

    def failures(self, candidate: Candidate, report: FailureReport) -> None:
        """Record sorted failures."""
        self._failures.append(
            FailureRecord(
                candidate=candidate.id,
                checked=report.checked,
                by_fault={str(fault): count for fault, count in report.by_fault.items()},
                modes=report.modes,
            )
        )

    def screen(
        self, candidate: Candidate, reference: Candidate, *, images: int, gain: float, error: float
    ) -> None:
        """Record a comparison on the search split."""
        record = ScreenRecord(
            candidate=candidate.id, reference=reference.id, images=images, gain=gain, error=error
        )
        self._screens.append(record)
        self._changed()

    def hypothesis(self, edit: SectionEdit) -> None:
        """Record the test of an edit's hypothesis."""
        self._hypotheses.append(edit)
        self._changed()

    @property
    def screens(self) -> tuple[ScreenRecord, ...]:
        """The screenings so far."""
        return tuple(self._screens)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The finished challenges."""
        return tuple(self._decisions)

    @property
    def last(self) -> str:
        """The latest note; empty if there is none."""
        return self._notes[-1] if self._notes else ""

    @property
    def known(self) -> list[Candidate]:
        """The candidates so far."""
        return [record.candidate for record in self._candidates.values()]

    @property
    def tried(self) -> tuple[SectionEdit, ...]:
        """The edits whose hypotheses were tested."""
        return tuple(self._hypotheses)

    def decision(self, decision: Decision) -> None:
        """Record the end of a challenge."""
        self._decisions.append(decision)
        self._changed()

    def note(self, text: str) -> None:
        """Record anything else worth a line in the report."""
        self._notes.append(text)
        self._changed()

    def record(self) -> HistoryRecord:
        """The history so far, as a value."""
        return HistoryRecord(
            candidates=tuple(self._candidates.values()),
            dropped=tuple(self._dropped),
            failures=tuple(self._failures),
            screens=tuple(self._screens),
            hypotheses=tuple(self._hypotheses),
            decisions=tuple(self._decisions),
            notes=tuple(self._notes),
        )
