"""Wording of numbers and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lens_prompt_opt.decisions import Decision, Verdict
from lens_prompt_opt.edits import HypothesisStatus
from lens_reasoner.revision import Fault
from lens_reasoner.types import Answer

MINUS: Final = "−"

VERDICTS: Final[dict[Verdict, tuple[str, str]]] = {
    "better": ("accepted", "good"),
    "worse": ("worse", "bad"),
    "no_difference": ("not better", "soft"),
    "out_of_budget": ("out of budget", "soft"),
    "guarded": ("rejected by a guard", "warn"),
}
"""Description and colour of each verdict."""

STATUSES: Final[dict[HypothesisStatus, tuple[str, str]]] = {
    "confirmed": ("confirmed", "good"),
    "refuted": ("refuted", "bad"),
    "unclear": ("unclear", "soft"),
    "open": ("not tested", "soft"),
}

FAULTS: Final[dict[Fault, str]] = {
    "reasoner": "system prompt",
    "generator": "generator",
    "judge": "judge",
}
"""The part at fault, as the page calls it."""

ANSWERS: Final[dict[Answer | None, tuple[str, str, str]]] = {
    "yes": ("✓", "good", "met"),
    "no": ("✗", "bad", "not met"),
    "cannot_tell": ("?", "warn", "cannot tell"),
    None: ("·", "soft", "not judged"),
}
"""Mark, colour and meaning of each answer."""


def points(value: float, *, sign: bool = True) -> str:
    """A share in percentage points, with a proper minus sign."""
    text = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return text.replace("-", MINUS)


def interval(bounds: tuple[float, float]) -> str:
    """An interval of gains in percentage points."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def amount(usd: float) -> str:
    """US dollars, with four decimals below 1."""
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def duration(seconds: float) -> str:
    """A duration in a suitable unit."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(count: float, noun: str, plural: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listing(names: Sequence[str]) -> str:
    """Names separated by commas and a final "and"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def evidence(decision: Decision, *, betting: bool) -> str:
    """The strength of a challenger's evidence; an e-value if the test has one."""
    reached = decision.looks[-1].evidence if decision.looks else 0.0
    if not betting:
        return f"{min(reached, 9.99):.0%} of the evidence needed"
    e_value, needed = (1 / decision.level) ** reached, 1 / decision.level
    p_value = min(1.0, 1 / e_value)
    return f"e-value {e_value:,.1f} of {needed:,.1f} needed, p {_p(p_value)}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.4f}"
