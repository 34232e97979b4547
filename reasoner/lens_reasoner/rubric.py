"""The seam to rubric writers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lens_reasoner.types import ImageRequest, Rubric


@runtime_checkable
class RubricWriter(Protocol):
    """Anything that turns a request into criteria a picture can be checked against."""

    async def write(self, request: ImageRequest) -> Rubric:
        """Write the rubric for `request`.

        Raises:
            JudgeError: If no rubric could be written.
        """
        ...
