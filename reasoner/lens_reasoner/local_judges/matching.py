"""Approximate search for a wanted text in lines of recognised text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Match:
    """The substring of the lines that is most similar to the wanted text.

    Attributes:
        similarity: 1 minus the edits per character of the wanted text; at least 0.
        lines: Indexes of the lines it spans.
    """

    similarity: float
    lines: tuple[int, ...]


def closest(wanted: str, lines: Sequence[str]) -> Match | None:
    """Find the most similar substring of the concatenated lines.

    Edits are insertions, deletions and replacements of characters (Sellers' algorithm).

    Args:
        wanted: The text to find; not empty.
        lines: The lines from top to bottom.

    Returns:
        The best match; None if the lines have no characters.
    """
    owner = [number for number, line in enumerate(lines) for _ in line]
    text = "".join(lines)
    if not text:
        return None
    # For each position: the fewest edits of a match that ends there, and where that match starts.
    costs = [(0, end) for end in range(len(text) + 1)]
    for row, letter in enumerate(wanted, start=1):
        above, costs = costs, [(row, 0)]
        for end, other in enumerate(text, start=1):
            replaced = (above[end - 1][0] + (letter != other), above[end - 1][1])
            left_out = (above[end][0] + 1, above[end][1])
            added = (costs[end - 1][0] + 1, costs[end - 1][1])
            costs.append(min(replaced, left_out, added))
    end = min(range(len(costs)), key=lambda place: costs[place][0])
    edits, start = costs[end]
    touched = owner[start:end] or [owner[min(start, len(owner) - 1)]]
    return Match(max(0.0, 1 - edits / len(wanted)), tuple(sorted(set(touched))))
