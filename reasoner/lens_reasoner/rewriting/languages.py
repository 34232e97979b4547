"""Recognising a text's language by its script and its most common words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "English": "the a an and of with is are on in at by to from its it his her their there no "
        "not that this which under near behind each",
        "German": "der die das den dem des ein eine einen einem einer eines und mit auf im ist "
        "sind von zu aus über unter vor neben nicht kein keine ohne zwei drei",
        "French": "le la les un une des du de et avec sur dans est sont au aux sous devant près "
        "sans qui que son sa ses deux trois",
        "Spanish": "el la los las un una unos unas de del y con sobre en es son al bajo junto sin "
        "que su sus dos tres",
        "Italian": "il lo la gli le un uno una di del della dei delle e con su nel nella è sono "
        "sotto accanto senza che due tre",
        "Portuguese": "o a os as um uma uns umas de do da dos das e com sobre em no na é são ao "
        "sob sem que dois duas três",
        "Dutch": "de het een en van met op in is zijn onder naast zonder die dat niet geen twee "
        "drie aan",
    }.items()
}
"""Words that distinguish languages of the Latin script."""

_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA"}


def script(text: str) -> str | None:
    """The script of more than half of the letters, such as "LATIN"; None if no script has that."""
    letters = [letter for letter in text if letter.isalpha()]
    scripts = Counter(unicodedata.name(letter, "?").split()[0].split("-")[0] for letter in letters)
    for name in _EAST_ASIAN:
        scripts["EAST ASIAN"] += scripts.pop(name, 0)
    name, count = max(scripts.items(), key=lambda item: item[1], default=("", 0))
    return name if count * 2 > len(letters) else None


def latin_language(text: str, *, lead: int = 1) -> str | None:
    """The language with the most function words in the text; None if it is unclear.

    Args:
        text: Text in the Latin script.
        lead: The number of words by which it must exceed the next language.
    """
    words = re.findall(r"[^\W\d_]+", text.casefold())
    counts = Counter(
        {name: sum(word in known for word in words) for name, known in FUNCTION_WORDS.items()}
    )
    (best, most), (_, second) = counts.most_common(2)
    return best if most - second >= lead else None


def language_changed(before: str, after: str) -> bool:
    """Whether the two texts are clearly in different languages."""
    scripts = script(before), script(after)
    if None in scripts or scripts[0] != scripts[1]:
        return None not in scripts
    if scripts[0] != "LATIN":
        return False
    languages = latin_language(before), latin_language(after, lead=4)
    return None not in languages and languages[0] != languages[1]
