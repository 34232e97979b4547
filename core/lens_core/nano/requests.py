"""Parsing of free-form requests within the nano world's vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from lens_core.nano.facts import NUMBERS, Exclude, Include
from lens_core.nano.geometry import OPPOSITE
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, PLURALS

_NOUNS: Final[dict[str, tuple[str, bool]]] = {
    **{cls: (cls, False) for cls in CLASSES},
    **{PLURALS[cls]: (cls, PLURALS[cls] != cls) for cls in CLASSES},
    "fishes": ("fish", True),
    "mug": ("cup", False),
    "mugs": ("cup", True),
    "teacup": ("cup", False),
    "teacups": ("cup", True),
}
"""Class of a noun, and whether it is certainly a plural."""
_HUES: Final[dict[str, str]] = {**{color: color for color in COLORS}, "violet": "purple"}
_COUNTS: Final[dict[str, int]] = {
    **{word: number for number, word in enumerate(NUMBERS) if number},
    "a": 1,
    "an": 1,
    "single": 1,
    "pair": 2,
    "couple": 2,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_RELATIONS: Final[tuple[tuple[str, str], ...]] = (
    (r"\bleft of\b", "left of"),
    (r"\bright of\b", "right of"),
    (r"\bon top of\b|\babove\b|\bover\b|\bhigher than\b", "above"),
    (r"\bbelow\b|\bunder\b|\bunderneath\b|\bbeneath\b|\blower than\b", "below"),
)
_SIDES: Final[dict[str, str]] = {
    "left": "left of",
    "right": "right of",
    "top": "above",
    "bottom": "below",
}
_SIDE: Final = re.compile(
    r"[\s,]*(?:(?:is|are) )?(?:on|at|to) (?:the )?(left|right|top|bottom)(?: side)?"
    r"\s*(?=$|,|while\b|with\b|and\b(?! (?:in|on|at|one|the second)\b))"
)
"""A side that a whole group is on; groups spread over several places have none."""
_ADJECTIVES: Final = (
    "small|little|tiny|medium|sized|large|big|huge|pretty|cute|nice|simple|round|of"
)
_NOUN_PHRASE: Final = re.compile(
    r"\b(?:(?P<the>the|this|these)\s+)?(?:(?P<first>first)\s+)?"
    rf"(?:(?P<count>{'|'.join(sorted(_COUNTS, key=len, reverse=True))}|\d+)\s+)?"
    rf"(?P<between>(?:(?:{_ADJECTIVES}|{'|'.join(_HUES)}|colou?red)[\s,-]+)*)"
    rf"(?P<noun>{'|'.join(sorted(_NOUNS, key=len, reverse=True))})\b"
)
MOST_WORDS_BETWEEN = 8
"""Maximum number of words between two nouns that a relation can connect."""


@dataclass
class _Mention:
    """One wanted group while a request is being parsed."""

    cls: str
    count: int
    color: str | None
    exact: bool
    side: str | None = None
    relation: tuple[str, _Mention] | None = None


def parse_request(text: str) -> dict[str, Any] | None:
    """Return the metadata of a request such as "two red apples left of a blue cup".

    Understands the world's classes (singular and plural), number words and digits, its ten
    colours, the four relations in their usual wordings, opposite sides ("a cup on the left and a
    car on the right"), later mentions ("the cup is above the car") and backgrounds. Everything
    else is ignored.

    Returns:
        GenEval metadata ("tag", "include", "exclude", "prompt"), and "background" if one is
        requested; None if the text names no class of the world. A group precedes the groups that
        refer to it. A plural without a number means at least two.
    """
    mentions: list[_Mention] = []
    for sentence in re.split(r"[.;!?\n]+", text.lower()):
        _read_sentence(sentence, mentions)
    if not mentions:
        return None
    _relate_sides(mentions)
    ordered = _targets_first(mentions)
    exclude = _exclude(ordered)
    out: dict[str, Any] = {
        "tag": _tag(ordered),
        "include": [_include(mention, ordered) for mention in ordered],
        "prompt": text,
    }
    if exclude:
        out["exclude"] = exclude
    background = _background(text.lower())
    if background is not None:
        out["background"] = background
    return out


def _read_sentence(sentence: str, mentions: list[_Mention]) -> None:
    """Add a sentence's groups and relations to those already found."""
    previous: _Mention | None = None
    end = 0
    for match in _NOUN_PHRASE.finditer(sentence):
        mention = _resolve(match, mentions)
        between = sentence[end : match.start()]
        if previous is not None and previous is not mention:
            _relate(previous, between, mention)
        side = _SIDE.match(sentence, match.end())
        if side and mention.side is None:
            mention.side = side.group(1)
        previous, end = mention, match.end()


def _resolve(match: re.Match[str], mentions: list[_Mention]) -> _Mention:
    """Return the group a noun phrase refers to, a new one unless it was mentioned before."""
    cls, plural = _NOUNS[match["noun"]]
    hues = [_HUES[word] for word in re.findall(r"[a-z]+", match["between"]) if word in _HUES]
    color = hues[-1] if hues else None
    if match["the"] or match["first"]:
        for known in mentions:
            if known.cls == cls and color in (None, known.color):
                return known
    word = match["count"]
    if word is None:
        count, exact = (2, False) if plural else (1, True)
    else:
        count, exact = _number(word) if word.isdigit() else _COUNTS[word], True
    mention = _Mention(cls, max(count, 1), color, exact)
    mentions.append(mention)
    return mention


def _number(digits: str) -> int:
    """Read the first nine digits: more than can be drawn, and Python's limit is 4,300 digits."""
    return int(digits.lstrip("0")[:9] or "0")


def _relate(first: _Mention, between: str, second: _Mention) -> None:
    """Record the relation stated by the words between two groups, if any."""
    if len(between.split()) > MOST_WORDS_BETWEEN:
        return
    places = [
        (found.start(), relation)
        for pattern, relation in _RELATIONS
        if (found := re.search(pattern, between))
    ]
    if places:
        _tie(first, min(places)[1], second)


def _tie(first: _Mention, relation: str, second: _Mention) -> None:
    """Store a relation with one of its groups; each holds at most one, and cycles are rejected."""
    for a, name, b in ((first, relation, second), (second, OPPOSITE[relation], first)):
        if a.relation is None and not _leads_to(b, a):
            a.relation = (name, b)
            return


def _leads_to(start: _Mention, goal: _Mention) -> bool:
    step: _Mention | None = start
    while step is not None:
        if step is goal:
            return True
        step = step.relation[1] if step.relation else None
    return False


def _relate_sides(mentions: list[_Mention]) -> None:
    """Turn "one on the left and one on the right" into a relation."""
    for index, first in enumerate(mentions):
        for second in mentions[index + 1 :]:
            if first.side is None or second.side is None:
                continue
            relation = _SIDES[first.side]
            tied = first.relation or second.relation
            if _SIDES[second.side] == OPPOSITE[relation] and not tied:
                _tie(first, relation, second)


def _targets_first(mentions: list[_Mention]) -> list[_Mention]:
    ordered: list[_Mention] = []
    for mention in mentions:
        chain: list[_Mention] = []
        step: _Mention | None = mention
        while step is not None and not any(known is step for known in ordered):
            chain.append(step)
            step = step.relation[1] if step.relation else None
        ordered += reversed(chain)
    return ordered


def _include(mention: _Mention, ordered: list[_Mention]) -> Include:
    item: Include = {"class": mention.cls, "count": mention.count}
    if mention.color is not None:
        item["color"] = mention.color
    if mention.relation is not None:
        relation, target = mention.relation
        index = next(i for i, known in enumerate(ordered) if known is target)
        item["position"] = [relation, index]
    return item


def _exclude(mentions: list[_Mention]) -> list[Exclude]:
    """Set an upper bound for every class whose number was stated."""
    totals: dict[str, int] = {}
    for mention in mentions:
        totals[mention.cls] = totals.get(mention.cls, 0) + mention.count
    open_ended = {mention.cls for mention in mentions if not mention.exact}
    return [
        {"class": cls, "count": count + 1} for cls, count in totals.items() if cls not in open_ended
    ]


def _tag(mentions: list[_Mention]) -> str:
    single = all(mention.count == 1 for mention in mentions)
    colored = [mention.color is not None for mention in mentions]
    if len(mentions) == 1:
        return ("colors" if colored[0] else "single_object") if single else "counting"
    if len(mentions) > 2 or not single or len({m.cls for m in mentions}) == 1:
        return "mixed"
    if any(mention.relation for mention in mentions):
        return "mixed" if any(colored) else "position"
    if any(colored):
        return "color_attr" if all(colored) else "mixed"
    return "two_object"


def _background(text: str) -> dict[str, Any] | None:
    """Return the fields of the background a text requests."""
    names = "|".join(BACKGROUNDS)
    halves: dict[str, str] = {}
    ends = "top|bottom|left|right"
    for half, name in re.findall(
        rf"\b({ends}) half (?:of the background )?(?:is |in )?({names})\b", text
    ):
        halves[half] = name
    for name, half in re.findall(rf"\b({names}) (?:in|on|at) the ({ends}) half\b", text):
        halves[half] = name
    for split, first, second in (("horizontal", "top", "bottom"), ("vertical", "left", "right")):
        if first in halves and second in halves and halves[first] != halves[second]:
            return {"color": halves[first], "second": halves[second], "split": split}
    plain = re.search(
        rf"\b({names})(?:[- ]colou?red)? background\b"
        rf"|\bbackground (?:is |of )?(?:plain )?({names})\b",
        text,
    )
    if plain is None or halves:
        return None
    return {"color": plain.group(1) or plain.group(2), "second": None, "split": None}
