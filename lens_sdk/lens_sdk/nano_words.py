"""Finds the words of a request that the nano world does not know."""

from __future__ import annotations

import re

from lens_core.nano.facts import NUMBERS
from lens_core.nano.vocabulary import BACKGROUNDS, CLASSES, COLORS, PLURALS

_PLAIN_WORDS = """
a above across against all an and any appear appears are around as at background be behind below
beneath beside between big blank both bottom bright by cartoon center centre clean clear color
colored colors colour coloured colours contains corner couple crown curved cute depicts different
directly door draw drawing drawn each eight either else empty entire every everything exactly eye
filled fin first fishes five flat for four fourth from full fully generate give gray grey half
halves handle has have having high higher huge i illustration image in inside is it its just kind
large larger leaf leaves left lie lies like little located low lower make me medium middle minimal
more mug mugs near nice nine no nothing object objects of on one only or other outline outlines
over paint painted painting pair petals photo photograph picture place placed plain please points
positioned pretty put render rest right roof round same scene second separate seven shape shaped
show showing shown shows side sides simple single sit sits sitting six size sized small smaller
smooth soft solid some stand standing stands stem style tail teacup teacups ten than that the
their them then there these they thin things third this those tiny to together top toward towards
trunk two under underneath up upper very violet we wheels where which white whole window windows
with without
"""
_KNOWN = frozenset(
    [*_PLAIN_WORDS.split(), *CLASSES, *PLURALS.values(), *COLORS, *BACKGROUNDS, *NUMBERS]
)


def foreign_words(text: str) -> list[str]:
    """Return a request's words that the nano world cannot generate or check, in order."""
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())
    return list(dict.fromkeys(word for word in words if word not in _KNOWN))
