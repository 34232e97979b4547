"""Text that a request wants to be read in the picture: what stands in quotation marks."""

from __future__ import annotations

import re

LONGEST = 400
"""Characters; what is longer between two marks is taken for two unrelated marks."""

_PAIRS = ("“”", "„“", "„”", "«»", "»«", "‹›", "「」", "『』", "《》", "‘’", "‚‘")


def _between(first: str, last: str) -> str:
    apostrophe = rf"|(?<=\w){last}(?=\w)" if last in "'’" else ""
    after = r"(?!\w)" if last in "'’" else ""
    before = r"(?<!\w)" if first in "'‘’" else ""
    return rf"{before}{first}((?:[^{first}{last}]{apostrophe}){{1,{LONGEST}}}?){last}{after}"


# A straight mark after a digit is an inch or a minute; within a word it is an apostrophe.
_STRAIGHT = rf'(?<!\d)"([^"]{{1,{LONGEST}}}?)"'
_QUOTED = re.compile(
    "|".join([_STRAIGHT, *(_between(*pair) for pair in _PAIRS), _between("'", "'")])
)


def quoted_texts(text: str) -> tuple[str, ...]:
    """Everything in quotation marks, each once, in order, without the marks.

    Straight and typographic marks of European and East Asian languages are known. Single straight
    ones count where they cannot be apostrophes, and double ones where they cannot be inches.
    """
    found: dict[str, None] = {}
    for match in _QUOTED.finditer(text):
        words = next(group for group in match.groups() if group is not None)
        stripped = " ".join(words.split())
        if stripped and (words == words.strip() or match[0][0] != '"'):
            found[stripped] = None
    return tuple(found)


def lost_quotes(request: str, prompt: str) -> tuple[str, ...]:
    """Quoted texts of a request that are not in a prompt letter by letter.

    Only the amount of white space may differ.
    """
    words = " ".join(prompt.split())
    return tuple(text for text in quoted_texts(request) if text not in words)


def without_quotes(text: str) -> str:
    """The text with everything quoted left out."""
    return _QUOTED.sub(" ", text)
