"""Finding a wanted text among lines that were read, misreadings allowed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Match:
    """The stretch of the lines that is most like the wanted text.

    Attributes:
        similarity: 1 less the edits per letter of the wanted text; at least 0.
        lines: Numbers of the lines it lies in.
    """

    similarity: float
    lines: tuple[int, ...]


def closest(wanted: str, lines: Sequence[str]) -> Match | None:
    """The most similar stretch of the lines read one after another.

    Edits are letters to be added, left out or replaced (Sellers' algorithm).

    Args:
        wanted: Not empty.
        lines: From top to bottom.

    Returns:
        The stretch; None if there are no letters at all.
    """
    owner = [number for number, line in enumerate(lines) for _ in line]
    text = "".join(lines)
    if not text:
        return None
    # Per letter of the text: fewest edits of a stretch that ends there, and where it starts.
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
