"""Quoted text in requests: text that should be readable in the image."""

from __future__ import annotations

import re

LONGEST = 400
"""Maximum characters between two quotation marks; with more, the marks do not belong together."""

_PAIRS = ("“”", "„“", "„”", "«»", "»«", "‹›", "「」", "『』", "《》", "‘’", "‚‘")


def _between(first: str, last: str) -> str:
    apostrophe = rf"|(?<=\w){last}(?=\w)" if last in "'’" else ""
    after = r"(?!\w)" if last in "'’" else ""
    before = r"(?<!\w)" if first in "'‘’" else ""
    return rf"{before}{first}((?:[^{first}{last}]{apostrophe}){{1,{LONGEST}}}?){last}{after}"


# A straight mark after a digit means inches or minutes; within a word it is an apostrophe.
_STRAIGHT = rf'(?<!\d)"([^"]{{1,{LONGEST}}}?)"'
_QUOTED = re.compile(
    "|".join([_STRAIGHT, *(_between(*pair) for pair in _PAIRS), _between("'", "'")])
)


def quoted_texts(text: str) -> tuple[str, ...]:
    """Everything in quotation marks, in order, without duplicates and without the marks.

    Knows straight quotes and the typographic ones of European and East Asian languages. Single
    straight quotes count unless they can be apostrophes, double ones unless they can be inches.
    """
    found: dict[str, None] = {}
    for match in _QUOTED.finditer(text):
        words = next(group for group in match.groups() if group is not None)
        stripped = " ".join(words.split())
        if stripped and (words == words.strip() or match[0][0] != '"'):
            found[stripped] = None
    return tuple(found)


def lost_quotes(request: str, prompt: str) -> tuple[str, ...]:
    """The quoted texts of a request that a prompt does not have verbatim.

    Differences in white space are ignored.
    """
    words = " ".join(prompt.split())
    return tuple(text for text in quoted_texts(request) if text not in words)


def without_quotes(text: str) -> str:
    """The text without quoted parts."""
    return _QUOTED.sub(" ", text)
