"""Reports on a running study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.history import History
from lens_reasoner.types import Value

Phase = Literal["calibrating", "searching", "specialising", "claiming", "finished"]


class StudyProgress(Value):
    """The progress of a running study.

    Attributes:
        phase: The current phase; "specialising" is the search for one generator.
        generator: The generator of that search; empty otherwise.
        images: Images so far, including the current block's.
        calls: Calls to any part so far, likewise.
        usd: US dollars so far, as far as known, likewise.
        seconds: Duration of the finished blocks.
        candidates: Number of prompts made.
        rounds: Rounds of the search.
        challenges: Finished challenges.
        accepted: What the accepted edits change, in the order of acceptance.
        expected_gain: The screening's estimate for the leading candidate, which is not a claim;
            None if there is none yet.
        note: The latest notable event, in one line.
    """

    phase: Phase
    generator: str = ""
    images: int = 0
    calls: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    candidates: int = 0
    rounds: int = 0
    challenges: int = 0
    accepted: tuple[str, ...] = ()
    expected_gain: float | None = None
    note: str = ""


ProgressCallback = Callable[[StudyProgress], None]
"""Called after every call and every decision; it should return immediately."""


class Monitor:
    """Combines ledger and history into progress reports."""

    def __init__(self, ledger: Ledger, on_progress: ProgressCallback | None) -> None:
        self._ledger = ledger
        self._on_progress = on_progress
        self._phase: Phase = "calibrating"
        self._generator = ""
        self._history: History | None = None
        self._earlier: tuple[str, ...] = ()
        self._pending: dict[str, tuple[float, int]] = {}

    def enter(self, phase: Phase, history: History, *, generator: str = "") -> None:
        """Start a phase, which has its own history."""
        if self._history is not None and self._history is not history:
            self._earlier += accepted_edits(self._history)
        self._phase, self._generator, self._history = phase, generator, history
        self.report()

    def called(self, key: str, usd: float | None, images: int) -> None:
        """A call of the current block has a result."""
        if self._on_progress is not None:
            self._pending[key] = usd or 0.0, images
            self.report()

    def settled(self) -> None:
        """The current block was entered in the ledger."""
        self._pending.clear()
        self.report()

    def report(self) -> None:
        """Report the current progress."""
        if self._on_progress is not None:
            self._on_progress(self._progress())

    def _progress(self) -> StudyProgress:
        ledger, history = self._ledger, self._history or History()
        screens = history.screens
        return StudyProgress(
            phase=self._phase,
            generator=self._generator,
            images=ledger.images + sum(images for _, images in self._pending.values()),
            calls=ledger.calls + len(self._pending),
            usd=ledger.usd + sum(usd for usd, _ in self._pending.values()),
            seconds=ledger.wall_seconds,
            candidates=len(history.known),
            rounds=max((candidate.round for candidate in history.known), default=0),
            challenges=len(history.decisions),
            accepted=self._earlier + accepted_edits(history),
            expected_gain=screens[-1].gain if screens else None,
            note=history.last,
        )


def accepted_edits(history: History) -> tuple[str, ...]:
    """A phrase for each section that an accepted challenger changed from its incumbent."""
    known = {candidate.id: candidate for candidate in history.known}
    said: list[str] = []
    for decision in history.decisions:
        if decision.accepted:
            made, before = known[decision.challenger], known[decision.incumbent]
            said += [_in_words(edit) for edit in _edits_between(made, before, known)]
    return tuple(said)


def _edits_between(
    made: Candidate, before: Candidate, known: dict[str, Candidate]
) -> list[SectionEdit]:
    """The last edit of each section between `before` and `made`, following first parents."""
    latest: dict[str, SectionEdit] = {}
    step: Candidate | None = made
    while step is not None and step.id != before.id:
        for edit in step.edits:
            latest.setdefault(edit.section, edit)
        step = known.get(step.parents[0]) if step.parents else None
    return list(latest.values())


def _in_words(edit: SectionEdit) -> str:
    aim = f" (against {edit.hypothesis.failure_mode})" if edit.hypothesis.failure_mode else ""
    return f"{edit.kind} {edit.section!r}{aim}"
