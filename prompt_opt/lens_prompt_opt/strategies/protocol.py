"""The seam to search strategies."""

from __future__ import annotations

from typing import Protocol

from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate


class Strategy(Protocol):
    """A way to look for a better prompt."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    @property
    def description(self) -> dict[str, object]:
        """Its settings, as JSON; part of what a run is about."""
        ...

    async def search(self, desk: Desk) -> Candidate:
        """Look for a better prompt until nothing more is to be gained or afforded.

        `BudgetExhaustedError` from the desk ends the search. A strategy that has more to return
        than the desk's incumbent then catches it.

        Returns:
            The prompt that the final claim is about. Strategies with a gate return
            `desk.incumbent`.
        """
        ...
