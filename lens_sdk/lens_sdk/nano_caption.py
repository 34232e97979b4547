"""Parses the nano model's dense captions: which objects they state, and where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lens_core.nano.facts import NUMBERS
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, PLURALS

_COUNTS = {"a": 1, "an": 1, **{word: count for count, word in enumerate(NUMBERS)}}
_NOUNS = {**{cls: cls for cls in CLASSES}, **{many: cls for cls, many in PLURALS.items()}}
_RELATIONS = {
    "to the left of": "left of",
    "left of": "left of",
    "to the right of": "right of",
    "right of": "right of",
    "above": "above",
    "higher than": "above",
    "below": "below",
    "lower than": "below",
}


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_SIZES = {
    "small": "small",
    "little": "small",
    "medium": "medium",
    "medium sized": "medium",
    "large": "large",
    "big": "large",
}

_MENTION = (
    rf"(?:(?P<the>the (?:first )?)|(?P<new>an? ))?(?:(?P<number>{_any(NUMBERS)}) )?"
    rf"(?:(?P<size>{_any(list(_SIZES))}) )?"
    rf"(?:(?P<color>{_any(list(COLORS))}) )?(?P<noun>{_any(list(_NOUNS))})"
)
_PLACE = (
    r"(?P<place>(?:in|at|on) the (?:"
    r"(?P<row>upper|lower|top|bottom|middle)(?: (?P<column>left|right|middle))?"
    r"|(?P<side>left|right)|(?P<centre>centre))(?: corner| side| in the middle)?)(?! half| of\b)"
)
_TOKEN = re.compile(
    rf"\b(?:{_MENTION}|{_PLACE}|(?P<relation>{_any(list(_RELATIONS))}))\b", re.IGNORECASE
)

_HALF = re.compile(rf"\b({_any(list(BACKGROUNDS))})\b")


Region = tuple[int, int]
"""A cell of the image's 3x3 grid: column and row, each from 0 to 2."""


@dataclass
class CaptionGroup:
    """The objects of one class in a caption.

    Attributes:
        count: The number of objects.
        color: Their colour; empty if not stated.
        size: Their size word; empty if not stated.
        regions: Where they are: one region per object, or none.
    """

    count: int
    color: str
    size: str
    regions: list[Region] = field(default_factory=list)


@dataclass
class CaptionFacts:
    """The facts a caption states.

    Attributes:
        groups: The objects, by class.
        relations: (class, relation, class) as stated.
        contradictions: Facts stated in two different ways.
    """

    groups: dict[str, CaptionGroup] = field(default_factory=dict)
    relations: list[tuple[str, str, str]] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def sentences(caption: str) -> list[str]:
    """Split a caption into sentences, each with its full stop."""
    return [part for part in re.split(r"(?<=\.)\s+", caption) if part]


def read_caption(caption: str) -> CaptionFacts:
    """Parse a dense caption."""
    facts = CaptionFacts()
    for sentence in sentences(caption):
        _read_sentence(sentence, facts)
        halves = _HALF.findall(sentence.lower())
        if len(halves) == 2 and halves[0] == halves[1]:
            facts.contradictions.append("both halves of the background have one colour")
    return facts


def _read_sentence(sentence: str, facts: CaptionFacts) -> None:
    subject, relation = "", ""
    for token in _TOKEN.finditer(sentence):
        if token["noun"]:
            noun = _take_mention(token, facts)
            if relation:
                facts.relations.append((subject, relation, noun))
            subject, relation = noun, ""
        elif token["relation"]:
            relation = _RELATIONS[token["relation"].lower()] if subject else ""
        elif subject in facts.groups:
            facts.groups[subject].regions.append(_region(token))


def _take_mention(token: re.Match[str], facts: CaptionFacts) -> str:
    """Record what a mention says about its group; returns the class."""
    cls = _NOUNS[token["noun"].lower()]
    number = (token["number"] or token["new"] or "").strip().lower()
    count = _COUNTS.get(number)
    color = (token["color"] or "").lower()
    size = _SIZES.get((token["size"] or "").lower(), "")
    known = facts.groups.get(cls)
    if known is None:
        facts.groups[cls] = CaptionGroup(count or 1, color, size)
        if count is None or not color:
            facts.contradictions.append(f"the {cls} is named before it is introduced")
    elif not token["the"]:
        facts.contradictions.append(f"{cls} is introduced twice")
    elif color not in {"", known.color} or count not in {None, known.count}:
        facts.contradictions.append(f"{cls} changes its colour or number")
    return cls


def _region(token: re.Match[str]) -> Region:
    columns = {"left": 0, "right": 2}
    rows = {"upper": 0, "top": 0, "lower": 2, "bottom": 2}
    column = columns.get(str(token["column"] or token["side"]).lower(), 1)
    return column, rows.get(str(token["row"]).lower(), 1)
