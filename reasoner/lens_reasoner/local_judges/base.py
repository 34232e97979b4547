"""Base class of local judges: look at the image once in a worker thread, then answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, TypeVar

from lens_reasoner.errors import JudgeError, MissingPackagesError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judging.view import opaque
from lens_reasoner.turns import Turns
from lens_reasoner.types import Criterion, Rubric, Usage
from lens_reasoner.verdict import CriterionVerdict, Opinion, Verdict

if TYPE_CHECKING:
    from PIL import Image

Seen = TypeVar("Seen")


class LocalJudge(ABC, Generic[Seen]):
    """Looks at an image once, if any criterion concerns the judge, and answers from what it saw.

    Other criteria are "cannot_tell". One image at a time, in a worker thread.
    """

    def __init__(self) -> None:
        self._turns = Turns()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for records."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Everything that affects the answers except image and criterion."""

    @abstractmethod
    def concerns(self, criterion: Criterion) -> bool:
        """Whether this judge can decide a criterion."""

    @abstractmethod
    def look(self, picture: Image.Image) -> Seen:
        """Analyse an image in RGB or greyscale; runs in a worker thread."""

    @abstractmethod
    def answer(self, criterion: Criterion, seen: Seen) -> Opinion:
        """Answer a criterion that concerns this judge."""

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`.

        Raises:
            JudgeError: The image could not be analysed.
            MissingPackagesError: Packages that the judge needs are not installed.
        """
        started = time.perf_counter()
        concerned = any(self.concerns(criterion) for criterion in rubric.criteria)
        seen = await self._turns.run(lambda: self._look(image)) if concerned else None
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(self._verdict(criterion, seen) for criterion in rubric.criteria),
            judge=self.name,
            seconds=time.perf_counter() - started,
            usage=Usage.zero(),
        )

    def _look(self, image: GeneratedImage) -> Seen:
        try:
            return self.look(opaque(image.image))
        except MissingPackagesError:
            raise
        except Exception as error:
            raise JudgeError(
                f"{self.name!r} could not analyse image {image.sha256[:8]}: "
                f"{type(error).__name__}: {error}",
                usage=Usage.zero(),
            ) from error

    def _verdict(self, criterion: Criterion, seen: Seen | None) -> CriterionVerdict:
        if seen is None or not self.concerns(criterion):
            opinion = Opinion(answer="cannot_tell", evidence=f"Not decided by {self.name}.")
        else:
            opinion = self.answer(criterion, seen)
        return CriterionVerdict(
            criterion=criterion.name,
            answer=opinion.answer,
            evidence=" ".join(opinion.evidence.split()),
            weight=criterion.weight,
            probability=opinion.probability,
        )


def require(what: str, *packages: str, extra: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        MissingPackagesError: Some are not.
    """
    missing = tuple(name for name in packages if find_spec(name) is None)
    if missing:
        raise MissingPackagesError(what, missing, extra=extra)
