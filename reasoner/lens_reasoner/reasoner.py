"""The seam to prompt writers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lens_reasoner.types import ImageRequest, Refused, Rewrite, Usage


@runtime_checkable
class Reasoner(Protocol):
    """Anything that turns a request into one detailed prompt, or refuses it."""

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """Rewrite `request.text` into a prompt for the generator.

        Raises:
            ReasonerError: If no decision was reached.
        """
        ...


class PassThrough:
    """Hands the request on as it is."""

    async def rewrite(self, request: ImageRequest) -> Rewrite:
        """The request's own words as the prompt."""
        return Rewrite(request=request.text, prompt=request.text, model="none", usage=Usage.zero())
