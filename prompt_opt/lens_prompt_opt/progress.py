"""What a study has come to so far, told while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.history import History
from lens_reasoner.types import Value

Phase = Literal["calibrating", "searching", "specialising", "claiming", "finished"]


class StudyProgress(Value):
    """A study under way.

    Attributes:
        phase: What it is busy with; "specialising" is the search for one generator.
        generator: The generator of that search; empty otherwise.
        images: Images, those of the block under way included.
        calls: Calls to any part, likewise.
        usd: Known dollars, likewise.
        seconds: Time of the finished blocks.
        candidates: Prompts made.
        rounds: Rounds of the search.
        challenges: Challenges to the incumbent that ended.
        accepted: What the accepted edits change, in the order of their acceptance.
        expected_gain: What screening thinks of the search's leader, no claim; None if nothing yet.
        note: The last remarkable thing, in a line.
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
"""Told after every call and every decision; it should return at once."""


class Monitor:
    """Puts progress together from the account and the history, and tells it."""

    def __init__(self, ledger: Ledger, told: ProgressCallback | None) -> None:
        self._ledger = ledger
        self._told = told
        self._phase: Phase = "calibrating"
        self._generator = ""
        self._history: History | None = None
        self._earlier: tuple[str, ...] = ()
        self._pending: dict[str, tuple[float, int]] = {}

    def enter(self, phase: Phase, history: History, *, generator: str = "") -> None:
        """A phase begins, with its own history."""
        if self._history is not None and self._history is not history:
            self._earlier += accepted_edits(self._history)
        self._phase, self._generator, self._history = phase, generator, history
        self.tell()

    def called(self, key: str, usd: float | None, images: int) -> None:
        """A call of the block under way has a result."""
        if self._told is not None:
            self._pending[key] = usd or 0.0, images
            self.tell()

    def settled(self) -> None:
        """The block under way has been entered in the ledger."""
        self._pending.clear()
        self.tell()

    def tell(self) -> None:
        """Tell how things stand."""
        if self._told is not None:
            self._told(self._progress())

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
    """What each accepted challenger changed against the incumbent it replaced, in words."""
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
    """The last edit of each section on the way from `before` to `made`, by first parents."""
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
