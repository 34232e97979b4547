"""Checking by words alone which criteria a prompt states."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lens_reasoner.fidelity.lexicon import OPPOSITE
from lens_reasoner.fidelity.reading import Reading, Word, read
from lens_reasoner.revision import FidelityFinding, FidelityReport, Statement
from lens_reasoner.rewriting.languages import latin_language
from lens_reasoner.rewriting.quotes import quoted_texts, without_quotes
from lens_reasoner.types import Criterion, ImageRequest, Rubric, Usage

_PRONOUNS = {"it", "they", "its", "their", "both", "each", "all"}
_LOOK_BACK = 5
_RANK: dict[Statement, int] = {"stated": 0, "missing": 1, "contradicted": 2}


@dataclass(frozen=True)
class _Finding:
    """What a prompt says about one demand of a criterion, and in which sentence."""

    status: Statement
    sentence: int | None = None


class LexicalFidelity:
    """Looks for the words of the request that a criterion comes from.

    For English it understands numbers (in words or digits), colours with their shades, quoted text,
    plurals and negation; the first three also for a few other languages. In other languages it
    compares the beginnings of words, and in scripts without spaces single characters.

    "missing" means that a content word is not in the prompt, so a prompt that says the same in
    entirely different words is misjudged. "contradicted" is only found for another number or colour
    right beside the object, and for objects that the prompt negates; never for positions.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the code and the word lists."""
        folder = Path(__file__).parent
        files = ("lexical.py", "lexicon.py", "reading.py")
        code = b"".join((folder / name).read_bytes() for name in files)
        return f"lexical {hashlib.sha256(code).hexdigest()[:8]}"

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """See `FidelityChecker.check`. Criteria without words of the request are skipped."""
        started = time.perf_counter()
        lookup = _Lookup(prompt, inflected=latin_language(request.text) not in {None, "English"})
        findings = [lookup.finding(criterion) for criterion in rubric.criteria]
        return FidelityReport(
            prompt=prompt,
            findings=tuple(finding for finding in findings if finding is not None),
            checker="lexical",
            usage=Usage.zero(),
            seconds=time.perf_counter() - started,
        )


class _Lookup:
    """Looks up the demands of criteria in one prompt."""

    def __init__(self, prompt: str, *, inflected: bool) -> None:
        self._prompt = prompt
        self._text: Reading = read(prompt)
        self._inflected = inflected

    def finding(self, criterion: Criterion) -> FidelityFinding | None:
        """What the prompt says about a criterion; None if it has nothing to look up."""
        found = list(self._demands(criterion))
        if criterion.kind == "structure" or not found:
            return None
        worst = max(found, key=lambda f: _RANK[f.status]).status
        numbers = {f.sentence for f in found if f.status == worst and f.sentence is not None}
        evidence = " ".join(self._text.sentences[number] for number in sorted(numbers))
        return FidelityFinding(
            criterion=criterion.name,
            status=worst,
            evidence="" if worst == "missing" else evidence,
        )

    def _demands(self, criterion: Criterion) -> Iterator[_Finding]:
        quotes = list(quoted_texts(criterion.source))
        text = criterion.expected.get("text")
        if isinstance(text, str) and text:
            quotes = [text]
        elif criterion.kind == "text" and not quotes:
            quotes = list(quoted_texts(criterion.question))
        yield from (self._quote(quote) for quote in quotes)
        if quotes and criterion.kind == "text":
            return
        thing = criterion.expected.get("class")
        if isinstance(thing, str):
            words = read(f"{_listed(criterion)} {thing}").words
        else:
            words = read(without_quotes(criterion.source)).words
        yield from self._words(words, criterion)

    def _words(self, words: tuple[Word, ...], criterion: Criterion) -> Iterator[_Finding]:
        kind = criterion.kind
        if any(word.single_character for word in words):
            yield from (self._presence(w) for w in words if not w.empty)
            return
        bound: set[int] = set()
        for position, word in enumerate(words):
            head = _head(words, position)
            if word.number is not None and kind != "object" and kind != "color":
                yield self._count(word.number, head)
            elif word.color is not None and kind not in {"object", "count"}:
                yield self._color(word.color, head)
            elif word.direction is not None and kind in {"position", "relation", "other"}:
                yield self._direction(word.direction, words)
            else:
                continue
            if head is not None and (word.number is not None or word.color is not None):
                bound.add(words.index(head))
        for position, word in enumerate(words):
            wanted = kind not in {"count", "color"} or not bound or position in bound
            if word.content and wanted:
                yield self._presence(word)

    def _quote(self, quote: str) -> _Finding:
        words = " ".join(quote.split())
        for number, sentence in enumerate(self._text.sentences):
            if words in " ".join(sentence.split()):
                return _Finding("stated", number)
        whole = " ".join(self._prompt.split())
        return _Finding("stated", None) if words in whole else _Finding("missing")

    def _mentions(self, word: Word) -> list[int]:
        """Positions of a word in the prompt, negated or not."""
        return [i for i, other in enumerate(self._text.words) if self._same(word, other)]

    def _same(self, one: Word, other: Word) -> bool:
        if one.number is not None or one.color is not None:
            return (one.number, one.color) == (other.number, other.color)
        if one.stem == other.stem:
            return True
        parts = other.text.split("-")
        if len(parts) > 1 and one.text in parts:
            return True
        longer = max(len(one.text), len(other.text))
        needed = max(4, round(0.7 * longer))
        return self._inflected and one.text[:needed] == other.text[:needed] and longer >= needed

    def _presence(self, word: Word) -> _Finding:
        found = [self._text.words[i] for i in self._mentions(word)]
        for other in found:
            if other.negated == word.negated:
                return _Finding("stated", other.sentence)
        return _Finding("contradicted", found[0].sentence) if found else _Finding("missing")

    def _before(self, position: int) -> Iterator[Word]:
        """The words that belong to a mention, nearest first."""
        for word in reversed(self._text.words[max(0, position - _LOOK_BACK) : position]):
            if word.sentence != self._text.words[position].sentence:
                return
            if word.empty and word.text not in {"of", "and", "a", "an", "another"}:
                return
            yield word

    def _count(self, number: int, head: Word | None) -> _Finding:
        if head is None:
            return self._presence(_bare(number))
        said: list[tuple[int, int]] = []
        single: list[int] = []
        for position in self._mentions(head):
            sentence = self._text.words[position].sentence
            for word in self._before(position):
                if word.number is not None:
                    said.append((word.number, sentence))
                    break
                if word.text in {"a", "an", "another", "ein", "eine", "un", "una", "une"}:
                    single.append(sentence)
                    break
        for said_number, sentence in said:
            if said_number == number:
                return _Finding("stated", sentence)
        if single and len(single) == number:
            return _Finding("stated", single[0])
        return _Finding("contradicted", said[0][1]) if said else _Finding("missing")

    def _color(self, color: str, head: Word | None) -> _Finding:
        mentions = self._mentions(head) if head is not None else []
        if not mentions:
            anywhere = [w.sentence for w in self._text.words if w.color == color and not w.negated]
            return (
                _Finding("stated", anywhere[0])
                if anywhere and head is None
                else _Finding("missing")
            )
        sentences = {self._text.words[position].sentence for position in mentions}
        beside = [
            (word.color, word.sentence)
            for position in mentions
            for word in self._before(position)
            if word.color is not None
        ]
        for said, sentence in beside:
            if said == color:
                return _Finding("stated", sentence)
        if beside:
            return _Finding("contradicted", beside[0][1])
        for number in sorted(sentences | self._carried_on(sentences)):
            if any(w.color == color and w.sentence == number for w in self._text.words):
                return _Finding("stated", number)
        return _Finding("missing")

    def _carried_on(self, sentences: set[int]) -> set[int]:
        """The sentences that follow these and begin with a pronoun."""
        first = {word.sentence: word.text for word in reversed(self._text.words)}
        return {n + 1 for n in sentences if first.get(n + 1) in _PRONOUNS}

    def _direction(self, direction: str, words: Iterable[Word]) -> _Finding:
        names = [word for word in words if word.content]
        there = {self._text.words[i].sentence for name in names for i in self._mentions(name)}
        for word in self._text.words:
            same = word.direction in {direction, OPPOSITE.get(direction, direction)}
            if same and (word.sentence in there or not names):
                return _Finding("stated", word.sentence)
        return _Finding("missing")


def _listed(criterion: Criterion) -> str:
    """The number and colour in a criterion's `expected`, as text."""
    given = (criterion.expected.get(key) for key in ("count", "color"))
    return " ".join(str(value) for value in given if isinstance(value, int | str))


def _bare(number: int) -> Word:
    return read(str(number)).words[0]


def _head(words: tuple[Word, ...], position: int) -> Word | None:
    """The noun that a number or colour belongs to: the last content word after it."""
    head: Word | None = None
    for word in words[position + 1 :]:
        if (word.pause and head) or word.empty or word.direction:
            break
        if word.content:
            head = word
        elif head is not None:
            break
    if head is None:
        before = [word for word in words[:position] if word.content]
        head = before[-1] if before else None
    return head
