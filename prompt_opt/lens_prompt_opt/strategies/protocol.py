"""The protocol for search strategies."""

from __future__ import annotations

from typing import Protocol

from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate


class Strategy(Protocol):
    """Searches for a better prompt."""

    @property
    def name(self) -> str:
        """Name for records."""
        ...

    @property
    def description(self) -> dict[str, object]:
        """Its settings as JSON; part of the study's description."""
        ...

    async def search(self, desk: Desk) -> Candidate:
        """Search for a better prompt until there is nothing more to gain or no budget left.

        `BudgetExhaustedError` from the desk ends the search. A strategy that wants to return
        something other than the desk's incumbent must catch it.

        Returns:
            The prompt for the final claim. Strategies that use the gate return `desk.incumbent`.
        """
        ...
