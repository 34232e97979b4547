"""Offline judging of nano images: reads criteria from the request and answers with a detector."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lens_core.nano.checks import AtomicCheck, Observation, atomic_checks, observe
from lens_core.nano.facts import NUMBERS, Include
from lens_core.nano.requests import parse_request
from lens_core.nano.vocabulary import CLASSES, COLORS, PLURALS, SIZES
from lens_reasoner import (
    Criterion,
    CriterionVerdict,
    GeneratedImage,
    ImageRequest,
    JudgeError,
    Rubric,
    Usage,
    Verdict,
)
from lens_reasoner.turns import Turns
from lens_sdk.models import package_version
from lens_sdk.nano_words import foreign_words

_AUTHOR = "nano-request-reader"
_FACTS = ("include", "exclude", "background")


class NanoRubricWriter:
    """Parses a request with the nano world's vocabulary, and asks for exactly what it says.

    Words outside that vocabulary become one more criterion, which the nano judge cannot tell. So an
    image never counts as perfect if only part of the request was understood.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies the request parser and its version."""
        return f"{_AUTHOR} {package_version()}"

    async def write(self, request: ImageRequest) -> Rubric:
        """See `RubricWriter.write`.

        Raises:
            JudgeError: The request names nothing in the nano world.
        """
        started = time.perf_counter()
        parsed = parse_request(request.text)
        if parsed is None:
            raise JudgeError(
                f"The offline judge knows nothing that {request.text!r} asks for, so the pictures "
                "are not judged.",
                usage=Usage.zero(),
                hint=f"It knows: {', '.join(CLASSES)}. Use --judge openai:MODEL for anything else.",
            )
        facts = {key: parsed[key] for key in _FACTS if key in parsed}
        checks = _distinct(atomic_checks(facts), parsed["include"])
        criteria = [_criterion(check, facts, request.text) for check in checks]
        return Rubric(
            request=request.text,
            criteria=(*criteria, *_unknown(request.text)),
            author=_AUTHOR,
            usage=Usage.zero(),
            seconds=time.perf_counter() - started,
        )


_ELSE = "everything else"
_BEYOND = "The detector knows only the nano world's objects and backgrounds."
_UNREAD = "The detector reads no questions, only what NanoRubricWriter puts into `expected`."


class NanoJudge:
    """Answers criteria of `NanoRubricWriter` with the nano world's detector.

    Criteria that the detector does not understand, such as those from a language model, get
    "cannot_tell".
    """

    name = "nano-detector"

    def __init__(self) -> None:
        # The detector renders its templates on first use, which is needed only once.
        self._turns = Turns()

    @property
    def fingerprint(self) -> str:
        """Identifies the detector and its version."""
        return package_version()

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`."""
        return await self._turns.run(lambda: self._judge(image, rubric))

    def _judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        started = time.perf_counter()
        observation = observe(image.image)
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(_answer(criterion, observation) for criterion in rubric.criteria),
            judge=self.name,
            seconds=time.perf_counter() - started,
            usage=Usage.zero(),
        )


def _distinct(checks: Sequence[AtomicCheck], include: Sequence[Include]) -> list[AtomicCheck]:
    """Drop redundant checks: "exactly one cup" implies that there is a cup."""
    named = {check.name: check for check in checks}
    totals = Counter({item["class"]: 0 for item in include})
    for item in include:
        totals[item["class"]] += item["count"]
    for cls, count in totals.items():
        if count == 1 and f"count:{cls}" in named:
            del named[f"object:{cls}"]
    return list(named.values())


def _criterion(check: AtomicCheck, facts: Mapping[str, Any], text: str) -> Criterion:
    return Criterion(
        name=check.name,
        kind=check.kind,
        question=check.question,
        source=_source(check, text),
        expected=dict(facts),
    )


def _unknown(text: str) -> Iterator[Criterion]:
    words = foreign_words(text)
    if words:
        listed = ", ".join(words)
        yield Criterion(
            name=_ELSE,
            kind="other",
            question=f"Does the picture show what the request says with: {listed}?",
            source=listed,
        )


def _answer(criterion: Criterion, observation: Observation) -> CriterionVerdict:
    try:
        checks = {check.name: check for check in atomic_checks(criterion.expected)}
    except (KeyError, TypeError, ValueError, IndexError):
        checks = {}
    check = checks.get(criterion.name)
    if check is None:
        beyond = criterion.name == _ELSE
        return CriterionVerdict(
            criterion=criterion.name,
            answer="cannot_tell",
            evidence=_BEYOND if beyond else _UNREAD,
            weight=criterion.weight,
        )
    result = check.run(observation)
    return CriterionVerdict(
        criterion=criterion.name,
        answer="yes" if result.passed else "no",
        evidence=result.evidence,
        weight=criterion.weight,
    )


def _source(check: AtomicCheck, text: str) -> str:
    """Return the words of the request that a check is about; the whole request if not found."""
    classes = [cls for cls in CLASSES if re.search(rf"\b{cls}\b", check.name)]
    spans = [span for cls in classes if (span := _phrase(cls, text)) is not None]
    if check.kind == "background":
        found = re.search(r"[^.,;]*\bbackground\b[^.,;]*", text, re.IGNORECASE)
        spans = [found.span()] if found else []
    if len(spans) < max(1, len(classes)):
        return text
    start, end = min(start for start, _ in spans), max(end for _, end in spans)
    return text[start:end].strip()


def _phrase(cls: str, text: str) -> tuple[int, int] | None:
    """Find where a class is named, including its number, size and colour."""
    before = "|".join([*NUMBERS, *COLORS, *SIZES, "an?", "the", "big", "little", r"\d+"])
    found = re.search(rf"\b(?:(?:{before}) )*(?:{PLURALS[cls]}|{cls})\b", text, re.IGNORECASE)
    return found.span() if found else None
