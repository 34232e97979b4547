"""Checks that a dense caption states what a request asks for, no less and nothing contrary.

The captions come from a small language model, so the check is strict: whatever is unclear,
missing or stated in two different ways is a fault.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import chain, combinations, product
from typing import Any

from lens_core.nano.facts import NUMBERS, Include
from lens_core.nano.requests import parse_request
from lens_core.nano.vocabulary import COLORS, PLURALS
from lens_sdk.nano_caption import CaptionFacts, CaptionGroup, Region, read_caption, sentences

_REGIONS: tuple[Region, ...] = tuple(product(range(3), range(3)))


class Faithfulness:
    """Checks captions against one request.

    Args:
        text: A request that names something in the nano world.

    Raises:
        ValueError: The request names nothing in the nano world.
    """

    def __init__(self, text: str) -> None:
        request = parse_request(text)
        if request is None:
            raise ValueError(f"the request {text!r} names nothing of the nano world")
        self._request: Mapping[str, Any] = request
        self._include: list[Include] = request["include"]
        self._asked = read_caption(text)

    def fault(self, caption: str) -> str:
        """Return what is wrong with a caption; empty if nothing is."""
        facts = read_caption(caption)
        return next(chain(self._missing(facts, caption), self._wrong(facts)), "")

    def good_start(self, caption: str) -> str:
        """Return a caption's first sentences, up to the first wrong one."""
        kept: list[str] = []
        for sentence in sentences(caption):
            facts = read_caption(" ".join([*kept, sentence]))
            if not sentence.endswith(".") or next(self._wrong(facts), ""):
                break
            kept.append(sentence)
        return " ".join(kept)

    def first_sentence(self, rng: random.Random) -> str:
        """Return a sentence that names everything asked for; `rng` chooses what was left open."""
        total = sum(item["count"] for item in self._include)
        names = []
        for item in self._include:
            cls, count = item["class"], item["count"]
            wish = self._asked.groups.get(cls)
            size = (wish.size if wish else "") or ("medium" if total <= 3 else "small")
            words = f"{size} {item.get('color') or rng.choice(list(COLORS))}"
            number = NUMBERS[count] if 1 < count < len(NUMBERS) else "a"
            names.append(f"{number} {words} {cls if count == 1 else PLURALS[cls]}")
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        return f"The picture shows {listed}."

    def _missing(self, facts: CaptionFacts, caption: str) -> Iterator[str]:
        """Yield what is not stated, or not stated yet."""
        for item in self._include:
            group = facts.groups.get(item["class"])
            if group is None:
                yield f"no {item['class']}"
            elif not group.regions:
                yield f"no place for {item['class']}"
        background = self._request.get("background")
        if background and (parse_request(caption) or {}).get("background") != background:
            yield "another background"

    def _wrong(self, facts: CaptionFacts) -> Iterator[str]:
        """Yield statements that are wrong, whatever follows."""
        yield from self._wrong_groups(facts)
        yield from facts.contradictions
        yield from _misplaced(facts)
        for cls, wish in self._asked.groups.items():
            yield from _elsewhere(cls, wish, facts.groups.get(cls, wish))
        for item in self._include:
            if "position" in item:
                relation, other = item["position"][0], self._include[item["position"][1]]
                if not can_hold(facts, item, relation, other):
                    yield f"{item['class']} is not {relation} {other['class']}"
        for first, relation, second in facts.relations:
            if not _possible(facts, first, relation, second):
                yield f"{first} cannot be {relation} {second} where they are"

    def _wrong_groups(self, facts: CaptionFacts) -> Iterator[str]:
        wanted = {item["class"]: item for item in self._include}
        exact = {item["class"] for item in self._request.get("exclude", [])}
        if len(wanted) < len(self._include):
            yield "one kind of thing in several colours"
        for cls, group in facts.groups.items():
            item = wanted.get(cls)
            if item is None:
                yield f"{cls} was not asked for"
            elif group.count < item["count"] or (cls in exact and group.count > item["count"]):
                yield f"{group.count} instead of {item['count']} of {cls}"
            elif item.get("color", group.color) != group.color:
                yield f"{cls} is {group.color} instead of {item.get('color')}"


def _misplaced(facts: CaptionFacts) -> Iterator[str]:
    for cls, group in facts.groups.items():
        if group.regions and len(group.regions) != group.count:
            yield f"{len(group.regions)} places for {group.count} of {cls}"
    everywhere = [region for group in facts.groups.values() for region in group.regions]
    if any(a == b for a, b in combinations(everywhere, 2)):
        yield "two things in one place"


def _elsewhere(cls: str, wish: CaptionGroup, group: CaptionGroup) -> Iterator[str]:
    """Yield sizes and places that differ from those in the request."""
    if wish.size not in {"", group.size}:
        yield f"{cls} is {group.size} instead of {wish.size}"
    for region in wish.regions:
        if group.regions and not any(_within(place, region) for place in group.regions):
            yield f"{cls} is not where it was asked for"


def _within(place: Region, asked: Region) -> bool:
    """Whether a place matches the request; a 1 (middle) leaves that axis open, except in (1, 1)."""
    if asked == (1, 1):
        return place == asked
    return all(wish in {1, found} for wish, found in zip(asked, place, strict=True))


def can_hold(facts: CaptionFacts, item: Include, relation: str, other: Include) -> bool:
    """Whether the places satisfy a relation, or still can if only one side has places."""
    ours, theirs = (
        facts.groups[side["class"]].regions if side["class"] in facts.groups else []
        for side in (item, other)
    )
    if ours and theirs:
        return all(_clear(a, b, relation) for a, b in product(ours, theirs))
    if ours:
        free = [b for b in _REGIONS if all(_clear(a, b, relation) for a in ours)]
        return len(free) >= other["count"]
    free = [a for a in _REGIONS if all(_clear(a, b, relation) for b in theirs)]
    return len(free) >= item["count"]


def _clear(one: Region, other: Region, relation: str) -> bool:
    along, across = _offset(one, other, relation)
    return along >= max(1, abs(across))


def _possible(facts: CaptionFacts, first: str, relation: str, second: str) -> bool:
    a, b = facts.groups.get(first), facts.groups.get(second)
    # Captions state relations only after places.
    if first == second or a is None or b is None or not (a.regions and b.regions):
        return False
    return all(_offset(x, y, relation)[0] >= 1 for x, y in product(a.regions, b.regions))


def _offset(one: Region, other: Region, relation: str) -> tuple[int, int]:
    """Offset of `one` from `other` along the relation's direction and across it, in cells."""
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
