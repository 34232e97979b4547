"""Reading the nano model's dense captions: what they say is where, and whether that is the request.

The captions come from a small language model, so they are read strictly: whatever is unclear,
missing or said twice in different ways counts against them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

from lens_core.nano.facts import NUMBERS, Include
from lens_core.nano.requests import parse_request
from lens_core.nano.vocabulary import CLASSES, COLORS, PLURALS

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


@dataclass
class CaptionGroup:
    """The objects of one class in a caption.

    Attributes:
        count: How many.
        color: Their colour; empty if it is not said.
        size: Their size word; empty if it is not said.
        regions: Where they are, as (column, row) from 0 to 2; one for each, or none.
    """

    count: int
    color: str
    size: str
    regions: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class CaptionFacts:
    """What a caption says.

    Attributes:
        groups: By class.
        relations: (class, relation, class) as stated.
        contradictions: What it says in two ways.
    """

    groups: dict[str, CaptionGroup] = field(default_factory=dict)
    relations: list[tuple[str, str, str]] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def read_caption(caption: str) -> CaptionFacts:
    """Read a dense caption."""
    facts = CaptionFacts()
    for sentence in re.split(r"(?<=\.)\s+", caption):
        _read_sentence(sentence, facts)
    return facts


def unfaithful(caption: str, text: str) -> str:
    """What a dense caption gets wrong about a request; empty if it can be drawn as it is.

    Args:
        caption: A dense caption.
        text: A request that names something of the nano world.
    """
    request = parse_request(text)
    if request is None:
        return "the request is outside the nano world"
    facts, asked = read_caption(caption), read_caption(text)
    background = request.get("background")
    if background and (parse_request(caption) or {}).get("background") != background:
        return "another background"
    faults = chain(
        _wrong_groups(facts, request),
        facts.contradictions,
        _misplaced(facts),
        _elsewhere(facts, asked),
        _wrong_relations(facts, request["include"]),
    )
    return next(faults, "")


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
    """Note what a mention says of its group; returns the class."""
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


def _region(token: re.Match[str]) -> tuple[int, int]:
    columns = {"left": 0, "right": 2}
    rows = {"upper": 0, "top": 0, "lower": 2, "bottom": 2}
    column = columns.get(str(token["column"] or token["side"]).lower(), 1)
    return column, rows.get(str(token["row"]).lower(), 1)


def _wrong_groups(facts: CaptionFacts, request: Mapping[str, Any]) -> Iterator[str]:
    include: list[Include] = request["include"]
    exact = {item["class"] for item in request.get("exclude", [])}
    wanted = {item["class"]: item for item in include}
    if len(wanted) < len(include):
        yield "one kind of thing in several colours"
    for cls, item in wanted.items():
        group = facts.groups.get(cls)
        if group is None:
            yield f"no {cls}"
        elif group.count < item["count"] or (cls in exact and group.count > item["count"]):
            yield f"{group.count} instead of {item['count']} of {cls}"
        elif item.get("color", group.color) != group.color:
            yield f"{cls} is {group.color} instead of {item.get('color')}"
    for cls in facts.groups.keys() - wanted.keys():
        yield f"{cls} was not asked for"


def _misplaced(facts: CaptionFacts) -> Iterator[str]:
    for cls, group in facts.groups.items():
        if len(group.regions) != group.count:
            yield f"{len(group.regions)} places for {group.count} of {cls}"
    everywhere = [region for group in facts.groups.values() for region in group.regions]
    if any(a == b for a, b in combinations(everywhere, 2)):
        yield "two things in one place"


def _elsewhere(facts: CaptionFacts, asked: CaptionFacts) -> Iterator[str]:
    """Where sizes and places said in the request itself are not kept."""
    for cls, wish in asked.groups.items():
        group = facts.groups.get(cls, wish)
        if wish.size not in {"", group.size}:
            yield f"{cls} is {group.size} instead of {wish.size}"
        for column, row in wish.regions:
            # Said of a side, the middle leaves the other direction open.
            fits = [
                region
                for region in group.regions
                if (column in {1, region[0]} and row in {1, region[1]})
                and ((column, row) != (1, 1) or region == (1, 1))
            ]
            if not fits:
                yield f"{cls} is not where it was asked for"


def _wrong_relations(facts: CaptionFacts, include: Sequence[Include]) -> Iterator[str]:
    for item in include:
        if "position" in item:
            relation, other = item["position"][0], include[item["position"][1]]["class"]
            if not _holds(facts, item["class"], relation, other):
                yield f"{item['class']} is not {relation} {other}"
    for first, relation, second in facts.relations:
        if not _possible(facts, first, relation, second):
            yield f"{first} cannot be {relation} {second} where they are"


def _holds(facts: CaptionFacts, first: str, relation: str, second: str) -> bool:
    """Whether a relation is clear from the places."""
    a, b = facts.groups.get(first), facts.groups.get(second)
    if a is None or b is None:
        return False
    return all(
        along >= max(1, abs(across))
        for one in a.regions
        for other in b.regions
        for along, across in [_offset(one, other, relation)]
    )


def _possible(facts: CaptionFacts, first: str, relation: str, second: str) -> bool:
    a, b = facts.groups.get(first), facts.groups.get(second)
    if first == second or a is None or b is None:
        return False
    return all(_offset(one, other, relation)[0] >= 0 for one in a.regions for other in b.regions)


def _offset(one: tuple[int, int], other: tuple[int, int], relation: str) -> tuple[int, int]:
    """How far `one` lies from `other` in the relation's direction, and across it, in thirds."""
    dx, dy = one[0] - other[0], one[1] - other[1]
    match relation:
        case "left of":
            return -dx, dy
        case "right of":
            return dx, dy
        case "above":
            return -dy, dx
        case _:
            return dy, dx
