"""Text split into words, clauses and sentences, with what each word is known to mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lens_reasoner.fidelity.lexicon import (
    COLORS,
    DIRECTIONS,
    EMPTY_WORDS,
    IRREGULAR,
    NEGATIONS,
    NUMBERS,
    SCOPE_ENDS,
)

_EAST_ASIAN = r"[\u3040-\u30ff\u3400-\u9fff]"
_TOKEN = re.compile(
    rf"(?P<end>[.!?。！？]+(?=\s|$|{_EAST_ASIAN}))|(?P<pause>[,;:，；、：—–()])|"
    rf"(?P<word>{_EAST_ASIAN}|(?:(?!{_EAST_ASIAN})[^\W_])+(?:['’-](?:(?!{_EAST_ASIAN})[^\W_])+)*)"
)
_NEGATION_REACH = 6


@dataclass(frozen=True)
class Word:
    """One word of a text.

    Attributes:
        text: As written, in lower case.
        stem: What its inflected forms have in common.
        sentence: Index of its sentence, from 0.
        pause: Whether a comma or similar punctuation precedes it.
        negated: Whether it is negated.
        number: The number it means, if any.
        color: The colour it means, if any.
        direction: The direction it means, if any.
    """

    text: str
    stem: str
    sentence: int
    pause: bool
    negated: bool
    number: int | None
    color: str | None
    direction: str | None

    @property
    def empty(self) -> bool:
        """Whether it has no meaning of its own."""
        return self.text in EMPTY_WORDS or self.text in NEGATIONS

    @property
    def content(self) -> bool:
        """Whether it names an object, a property or an action."""
        return not self.empty and self.number is None and not self.direction and not self.color

    @property
    def single_character(self) -> bool:
        """Whether it is a single character of a script without spaces."""
        return re.fullmatch(_EAST_ASIAN, self.text) is not None


@dataclass(frozen=True)
class Reading:
    """A text that was split into words.

    Attributes:
        words: Its words in order.
        sentences: Its sentences as written.
    """

    words: tuple[Word, ...]
    sentences: tuple[str, ...]


def read(text: str) -> Reading:
    """Split a text into words and sentences."""
    words: list[Word] = []
    sentences: list[str] = []
    start, pause, reach = 0, False, 0
    for token in _TOKEN.finditer(text):
        if token["end"]:
            sentences.append(text[start : token.end()].strip())
            start, pause, reach = token.end(), True, 0
        elif token["pause"]:
            pause, reach = True, 0
        else:
            word = token["word"].casefold().replace("’", "'").removesuffix("'s")
            if word in NEGATIONS:
                reach = _NEGATION_REACH + 1
            elif word in SCOPE_ENDS or _begins_anew(words, word):
                reach = 0
            reach = max(0, reach - 1)
            words.append(_word(word, len(sentences), pause, reach > 0 and word not in NEGATIONS))
            pause = False
    if text[start:].strip():
        sentences.append(text[start:].strip())
    return Reading(tuple(words), tuple(sentences))


def _begins_anew(words: list[Word], word: str) -> bool:
    """Whether "and a", "and two" or the like begins something that the negation does not cover."""
    return (
        bool(words) and words[-1].text == "and" and (word in {"a", "an", "the"} or word in NUMBERS)
    )


def _word(text: str, sentence: int, pause: bool, negated: bool) -> Word:
    number = int(text) if re.fullmatch(r"[0-9]{1,6}", text) else NUMBERS.get(text)
    return Word(
        text=text,
        stem=stem(text),
        sentence=sentence,
        pause=pause,
        negated=negated,
        number=number,
        color=COLORS.get(text) or COLORS.get(text.rpartition("-")[2]),
        direction=DIRECTIONS.get(text),
    )


def stem(word: str) -> str:
    """What an English word's forms have in common, roughly; other words are unchanged."""
    word = IRREGULAR.get(word, word)
    for suffix, instead in (
        ("ies", "y"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
    ):
        if word.endswith(suffix) and len(word) > len(suffix) + 1:
            return word.removesuffix(suffix) + instead
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for suffix in ("ing", "ed"):
        root = word.removesuffix(suffix)
        if root != word and len(root) >= 3 and re.search("[aeiouy]", root):
            doubled = len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz"
            return (root[:-1] if doubled else root).removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word
