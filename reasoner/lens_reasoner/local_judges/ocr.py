"""Reading the text in an image, for criteria about text."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lens_reasoner.local_judges.base import LocalJudge, require
from lens_reasoner.local_judges.matching import closest
from lens_reasoner.rewriting.quotes import quoted_texts
from lens_reasoner.types import Criterion
from lens_reasoner.verdict import Opinion

if TYPE_CHECKING:
    from PIL import Image

ALIKE = 0.8
"""Similarity from which a text counts as the wanted one, misspelt or misread."""

SURE = 0.9
"""OCR confidence from which single characters are trusted."""


@dataclass(frozen=True)
class ReadText:
    """The recognised lines from top to bottom, their confidences, and the known characters."""

    lines: tuple[str, ...]
    scores: tuple[float, ...]
    alphabet: frozenset[str]


class OcrJudge(LocalJudge[ReadText]):
    """Answers text criteria by reading the image with RapidOCR (extra `ocr`).

    The text to find is `expected["text"]`, or else the only quoted text of the question. An empty
    `expected["text"]` requires an image without any text. Case, spaces, line breaks, and digits and
    letters that look alike make no difference; everything else does. Texts with characters the
    model does not know, such as Cyrillic, are "cannot_tell". The weights come with the package;
    nothing is downloaded.
    """

    def __init__(self, *, side_length: int = 320, threads: int = 1) -> None:
        """Configure the judge; the model is loaded on first use.

        Args:
            side_length: Smaller images are enlarged until their shorter side has this many pixels.
                Larger values find smaller text and take longer.
            threads: CPU threads per image.
        """
        super().__init__()
        self._side_length = side_length
        self._threads = threads
        self._reader: Any = None

    @property
    def name(self) -> str:
        """Name of the reader."""
        return "rapidocr"

    @property
    def fingerprint(self) -> str:
        """The package's version, the side length and the thresholds."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            package = version("rapidocr")
        except PackageNotFoundError:
            package = "none"
        return f"{package} side={self._side_length} {ALIKE}/{SURE}"

    def concerns(self, criterion: Criterion) -> bool:
        """Whether the criterion says which text to find."""
        return _wanted(criterion) is not None

    def look(self, picture: Image.Image) -> ReadText:
        """Read an image."""
        reader = self._load()
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        found = reader(buffer.getvalue())
        lines = tuple(found.txts or ())
        scores = tuple(float(score) for score in found.scores or ())
        return ReadText(lines, scores, frozenset(reader.text_rec.postprocess_op.character))

    def _load(self) -> Any:
        if self._reader is None:
            require("Reading text in images", "rapidocr", "onnxruntime", extra="ocr")
            from rapidocr import RapidOCR

            runtime = "EngineConfig.onnxruntime"
            self._reader = RapidOCR(
                params={
                    "Global.log_level": "critical",
                    "Det.limit_side_len": self._side_length,
                    f"{runtime}.intra_op_num_threads": self._threads,
                    f"{runtime}.inter_op_num_threads": self._threads,
                }
            )
        return self._reader

    def answer(self, criterion: Criterion, seen: ReadText) -> Opinion:
        """Whether the wanted text was found."""
        wanted = _wanted(criterion) or ""
        read = " / ".join(seen.lines)
        evidence = f"read: {read}" if read else "read nothing"
        if not wanted:
            return Opinion(answer="no" if read else "yes", evidence=evidence)
        unknown = {c for c in wanted if not c.isspace()} - seen.alphabet
        if unknown:
            letters = " ".join(sorted(unknown))
            return Opinion(answer="cannot_tell", evidence=f"The reader does not know: {letters}")
        match = closest(_plain(wanted), [_plain(line) for line in seen.lines])
        if match is None:
            return Opinion(answer="no", evidence=evidence)
        score = min(seen.scores[line] for line in match.lines)
        if match.similarity == 1:
            return Opinion(answer="yes", evidence=evidence, probability=min(1.0, score))
        if match.similarity >= ALIKE and score < SURE:
            evidence = f"{evidence} (unsure)"
            return Opinion(answer="cannot_tell", evidence=evidence)
        return Opinion(answer="no", evidence=evidence)


def _wanted(criterion: Criterion) -> str | None:
    """The text to find; None if the criterion does not say."""
    text = criterion.expected.get("text")
    if isinstance(text, str):
        return " ".join(text.split())
    if criterion.kind != "text":
        return None
    quoted = quoted_texts(criterion.question)
    return quoted[0] if len(quoted) == 1 else None


_ALIKE_GLYPHS = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "’": "'", "‘": "'"})
_ALIKE_GLYPHS |= str.maketrans({"“": '"', "”": '"', "–": "-", "—": "-"})


def _plain(text: str) -> str:
    """The text without distinctions that OCR cannot make."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(folded.split()).translate(_ALIKE_GLYPHS)
