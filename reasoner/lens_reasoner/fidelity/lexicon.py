"""Words with an unambiguous meaning: numbers, colours, directions, negations."""

from __future__ import annotations

from lens_reasoner.rewriting.languages import FUNCTION_WORDS


def _words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in text.split())


def _meanings(words: dict[str, str]) -> dict[str, str]:
    """Invert a mapping from meanings to their words."""
    return {word: meaning for meaning, text in words.items() for word in text.split()}


def _counted(*texts: str) -> dict[str, int]:
    """Number each word by its position; a dash skips a number whose word is in another list."""
    return {
        word: number for text in texts for number, word in enumerate(text.split()) if word != "-"
    }


_NUMBERS = _counted(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty",
    "- eins zwei drei vier fünf sechs sieben acht neun zehn - zwölf",
    "zéro - deux trois quatre cinq six sept huit neuf dix onze douze",
    "cero - dos tres cuatro cinco seis siete ocho nueve diez - doce",
    "- - - tre quattro cinque sei sette otto nove dieci",
    "〇 一 二 三 四 五 六 七 八 九 十",
)
_GROUPS = {"single": 1, "lone": 1, "pair": 2, "couple": 2, "both": 2, "trio": 3, "dozen": 12}

NUMBERS: dict[str, int] = _NUMBERS | _GROUPS | {"两": 2}
"""Number words; digits are parsed."""

COLORS = _meanings(
    {
        "red": "red scarlet crimson vermilion",
        "orange": "orange tangerine",
        "yellow": "yellow golden",
        "green": "green emerald",
        "blue": "blue navy azure cobalt",
        "purple": "purple violet",
        "pink": "pink magenta fuchsia",
        "brown": "brown",
        "black": "black ebony",
        "white": "white ivory",
        "gray": "gray grey silver",
        "cyan": "cyan turquoise teal",
        "beige": "beige",
    }
)
"""Colours and the shades that count as them."""

DIRECTIONS = _meanings(
    {
        "left": "left leftmost",
        "right": "right rightmost",
        "above": "above over atop top upper",
        "below": "below under beneath underneath bottom lower",
        "front": "front foreground",
        "behind": "behind back",
        "beside": "beside near next adjacent alongside",
        "between": "between",
        "inside": "inside within",
    }
)
"""Words for positions."""

OPPOSITE = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "front": "behind",
    "behind": "front",
}
"""Directions that mean the same once the two objects are swapped."""

NEGATIONS = _words(
    "no not never none neither nor without lacking lacks absent isn't aren't nicht kein keine",
    "keinen keiner ohne sans aucun aucune sin ningún ninguna senza nessun nessuna sem não 没 無 无",
)
"""Words that negate what follows."""

SCOPE_ENDS = _words("but only except instead however with while where")
"""Words that end the scope of a negation."""

IRREGULAR = {
    "children": "child",
    "people": "person",
    "men": "man",
    "women": "woman",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "wolves": "wolf",
    "loaves": "loaf",
    "shelves": "shelf",
    "scarves": "scarf",
    "oxen": "ox",
}
"""Plurals that no rule makes."""

_OTHERS = _words(
    "which who whose they them he she we you i as into onto through one's be been being was were",
    "has have having do does show shows showing picture image photo photograph painting depicting",
    "exactly some any all every other another please make draw create want very 的 了 着 在 是 和",
    "与 有 个 只 の は が を に で と も た て",
)

EMPTY_WORDS = (
    _words(*(word for words in FUNCTION_WORDS.values() for word in words))
    - NEGATIONS
    - NUMBERS.keys()
    - DIRECTIONS.keys()
) | _OTHERS
"""Words that say nothing that could be looked up."""
