"""The seam to judges."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lens_reasoner.image import GeneratedImage
from lens_reasoner.types import Rubric, Verdict


@runtime_checkable
class Judge(Protocol):
    """Anything that looks at a picture and answers the criteria of a rubric."""

    @property
    def name(self) -> str:
        """Name for records, such as "nano-detector"."""
        ...

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """Answer every criterion of `rubric` for `image`.

        A criterion the judge cannot decide is "cannot_tell"; a judge that fails as a whole raises.

        Raises:
            JudgeError: If there is no verdict at all.
        """
        ...
