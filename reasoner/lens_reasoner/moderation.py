"""The seam to services that say which requests must not be drawn."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lens_reasoner.types import Refused


@runtime_checkable
class Moderator(Protocol):
    """Anything that reads a request before it is rewritten."""

    @property
    def model(self) -> str:
        """Name of the model, for records."""
        ...

    async def check(self, text: str) -> Refused | None:
        """The refusal that `text` runs into; None if it may be drawn.

        Raises:
            ChatError: If there is no decision; nothing is said about the request then.
        """
        ...
