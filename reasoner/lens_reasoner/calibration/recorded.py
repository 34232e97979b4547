"""Verdicts from the records of runs, for calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lens_reasoner.errors import CalibrationError
from lens_reasoner.events import Judged, RubricDone
from lens_reasoner.record import RunRecord
from lens_reasoner.types import Rubric
from lens_reasoner.verdict import CriterionVerdict, Verdict


def recorded_verdicts(
    records: Iterable[RunRecord], *, judge: str | None = None
) -> list[tuple[Verdict, Rubric]]:
    """Read the verdicts of recorded runs, in the form that `calibrate` takes.

    If an image was judged several times on a criterion, the last answer counts. Failed answers are
    skipped.

    Args:
        records: The runs; they are read one at a time.
        judge: Only use this judge's answers; None uses all.

    Raises:
        CalibrationError: Two judges answered the same criterion and `judge` is None.
        RunRecordError: A record cannot be read.
    """
    said = [entry for record in records for entry in _verdicts(record)]
    said.sort(key=lambda entry: entry[0])
    answered: dict[tuple[str, str], str] = {}
    found = []
    for _, verdict, rubric in reversed(said):
        lines = [
            line
            for line in verdict.verdicts
            if not line.failed
            and judge in (None, _judge(verdict, line))
            and _first(verdict, line, answered)
        ]
        if lines:
            found.append((verdict.model_copy(update={"verdicts": tuple(lines)}), rubric))
    return found[::-1]


def _verdicts(record: RunRecord) -> Iterator[tuple[str, Verdict, Rubric]]:
    """The run's start time, its verdicts in order, and their criteria."""
    rubric = record.header.rubric
    for event in record.events:
        if isinstance(event, RubricDone):
            rubric = event.rubric
        elif isinstance(event, Judged) and rubric is not None:
            yield record.header.created, event.verdict, rubric


def _judge(verdict: Verdict, line: CriterionVerdict) -> str:
    return line.judge or verdict.judge


def _first(verdict: Verdict, line: CriterionVerdict, answered: dict[tuple[str, str], str]) -> bool:
    """Whether this is the first answer to its criterion; remembers who gave it."""
    key, name = (verdict.image_sha256, line.criterion), _judge(verdict, line)
    before = answered.get(key)
    if before is None:
        answered[key] = name
    elif before != name:
        raise CalibrationError(
            f"Image {key[0][:12]} was judged on {key[1]!r} by {name!r} and by {before!r}.",
            hint=f"Choose whose answers to compare: judge={before!r}, or --judged-by {before!r}.",
        )
    return before is None
