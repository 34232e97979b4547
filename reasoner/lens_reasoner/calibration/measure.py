"""Comparing a judge's verdicts with human labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from sys import maxunicode

from lens_reasoner.calibration.labels import HumanLabel
from lens_reasoner.calibration.report import Agreement, CalibrationReport, Distrusted, TrustRule
from lens_reasoner.errors import CalibrationError
from lens_reasoner.types import Answer, Rubric
from lens_reasoner.verdict import Verdict

_Key = tuple[str, str]
"""SHA-256 of the image, and name of the criterion."""


@dataclass(frozen=True)
class _Judged:
    """A judge's answer, with what is known about its criterion."""

    answer: Answer
    kind: str
    title: str
    judge: str


def calibrate(
    labels: Iterable[HumanLabel],
    judged: Iterable[tuple[Verdict, Rubric]],
    *,
    rule: TrustRule | None = None,
) -> CalibrationReport:
    """Compare a judge with people, by kind of criterion and by criterion.

    Several labels for one image and criterion are decided by majority. A label may give a prefix of
    an image's hash if the prefix is unique.

    Args:
        labels: Human answers.
        judged: Verdicts, each with the rubric it answers.
        rule: When a group of criteria is distrusted.

    Raises:
        CalibrationError: An image was judged twice on one criterion, or a prefix is ambiguous.
    """
    answers = _answers(judged)
    people, unmatched, unclear = _people(labels, answers)
    groups: dict[str, dict[str, Counter[str]]] = {"all": {}, "kind": {}, "criterion": {}}
    for key, label in people.items():
        known, cell = answers[key], _cell(label, answers[key].answer)
        for level, name in (("all", "all"), ("kind", known.kind), ("criterion", known.title)):
            groups[level].setdefault(name, Counter())[cell] += 1
    kinds, criteria = _agreements(groups["kind"]), _agreements(groups["criterion"])
    rule = rule or TrustRule()
    reasons = {group.group: rule.reasons(group) for group in (*kinds, *criteria)}
    return CalibrationReport(
        judges=tuple(sorted({answers[key].judge for key in people})),
        overall=Agreement(group="all", **groups["all"].get("all", Counter())),
        kinds=kinds,
        criteria=criteria,
        rule=rule,
        distrusted=tuple(Distrusted(group=g, reasons=why) for g, why in reasons.items() if why),
        unmatched=unmatched,
        unclear=unclear,
    )


def _answers(judged: Iterable[tuple[Verdict, Rubric]]) -> dict[_Key, _Judged]:
    answers: dict[_Key, _Judged] = {}
    for verdict, rubric in judged:
        kinds = {criterion.name: criterion.kind for criterion in rubric.criteria}
        for answer in verdict.verdicts:
            key = (verdict.image_sha256, answer.criterion)
            if key in answers:
                raise CalibrationError(
                    f"Image {key[0][:12]} was judged twice on {key[1]!r}.",
                    hint="Calibrate one judge at a time, with one verdict per image.",
                )
            answers[key] = _Judged(
                answer=answer.answer,
                kind=kinds.get(answer.criterion, "other"),
                title=f"{rubric.request}: {answer.criterion}",
                judge=answer.judge or verdict.judge,
            )
    return answers


def _people(
    labels: Iterable[HumanLabel], answers: Mapping[_Key, _Judged]
) -> tuple[dict[_Key, Answer], int, int]:
    """Majority answers by image and criterion, the unmatched labels, and the undecided cases."""
    images = sorted({image for image, _ in answers})
    votes: dict[_Key, Counter[Answer]] = defaultdict(Counter)
    unmatched = 0
    for label in labels:
        first = bisect_left(images, label.image)
        fitting = images[first : bisect_left(images, f"{label.image}{chr(maxunicode)}", first)]
        if len(fitting) > 1:
            raise CalibrationError(
                f"{label.image!r} is a prefix of the hashes of {len(fitting)} images.",
                hint="Give more of the hash.",
            )
        key = (fitting[0], label.criterion) if fitting else ("", "")
        if key in answers:
            votes[key][label.label] += 1
        else:
            unmatched += 1
    people: dict[_Key, Answer] = {
        key: "yes" if count["yes"] > count["no"] else "no"
        for key, count in votes.items()
        if count["yes"] != count["no"]
    }
    return people, unmatched, len(votes) - len(people)


def _cell(label: Answer, answer: Answer) -> str:
    if answer == "cannot_tell":
        return "undecided"
    return f"{'true' if label == answer else 'false'}_{answer}"


def _agreements(groups: Mapping[str, Counter[str]]) -> tuple[Agreement, ...]:
    return tuple(Agreement(group=name, **counts) for name, counts in sorted(groups.items()))
