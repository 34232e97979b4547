"""GenEval's rule for "left of", "right of", "above" and "below" between two boxes."""

from __future__ import annotations

import math

from lens_core.nano.vocabulary import POSITIONS

POSITION_THRESHOLD = 0.1
"""Share of the boxes' summed sizes by which an offset is shortened, as in GenEval."""
DIRECTION_THRESHOLD = 0.5
"""Minimum share of the distance that must lie in a direction, as in GenEval."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

AnyBox = tuple[float, float, float, float]


def direction(a: AnyBox, b: AnyBox) -> tuple[float, float]:
    """Return the shortened offset of box `a` from box `b` in units of their distance.

    Boxes are left, top, right, bottom. Follows `relative_position` of GenEval's evaluator.
    """
    offset = ((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
    spans = (a[2] - a[0] + b[2] - b[0], a[3] - a[1] + b[3] - b[1])
    revised = [
        math.copysign(max(abs(o) - POSITION_THRESHOLD * s, 0.0), o)
        for o, s in zip(offset, spans, strict=True)
    ]
    if all(abs(r) < 1e-3 for r in revised):
        return 0.0, 0.0
    distance = math.hypot(*offset)
    return revised[0] / distance, revised[1] / distance


def relations(a: AnyBox, b: AnyBox, threshold: float = DIRECTION_THRESHOLD) -> list[str]:
    """Return every relation of box `a` to box `b`, the clearest first."""
    dx, dy = direction(a, b)
    strengths = dict(zip(POSITIONS, (-dx, dx, -dy, dy), strict=True))
    held = [name for name, strength in strengths.items() if strength > threshold]
    return sorted(held, key=lambda name: -strengths[name])
