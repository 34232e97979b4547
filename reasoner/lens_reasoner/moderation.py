"""The protocol for services that decide which requests may be generated."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lens_reasoner.types import Refused


@runtime_checkable
class Moderator(Protocol):
    """Checks a request before it is rewritten."""

    @property
    def model(self) -> str:
        """Name of the model, for records."""
        ...

    async def check(self, text: str) -> Refused | None:
        """Return the refusal of `text`; None if it may be generated.

        Raises:
            ChatError: There is no decision, so nothing is known about the request.
        """
        ...
