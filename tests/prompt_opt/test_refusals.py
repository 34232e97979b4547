"""Requests that a prompt gets refused fail all their criteria, wherever criteria are counted."""

from __future__ import annotations

from typing import Any

import pytest

from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.comparison import Comparison
from lens_prompt_opt.edits import Hypothesis, SectionEdit
from lens_prompt_opt.statistics.intervals import ClusterBootstrap
from lens_prompt_opt.strategies.factorial import _pair

KINDS = {"two cups": "count", "red": "color"}


class Desk:
    def kinds(self, request: str) -> dict[str, str]:
        return KINDS


def _drawn(cell: Cell) -> Outcome:
    return Outcome(cell, 1.0, answers=dict.fromkeys(KINDS, "yes"), rewrite="p", image="i")


def _refused(cell: Cell) -> Outcome:
    return Outcome(cell, 0.0, failure="refused: other: No.")


def test_an_edit_that_gets_requests_refused_is_seen_to_do_harm_in_its_screening() -> None:
    cell, desk = Cell("r", 1), Desk()
    pair = _pair(desk, (1, -1), _refused(cell), _drawn(cell))  # type: ignore[arg-type]
    assert pair.differences == {"count": -1.0, "color": -1.0}
    unjudged = Outcome(cell, None, failure="JudgeError: no verdict")
    pair = _pair(desk, (1, -1), unjudged, _drawn(cell))  # type: ignore[arg-type]
    assert not pair.differences


def test_kinds_and_hypotheses_of_a_claim_count_refusals_as_its_gain_does() -> None:
    cells = [Cell(f"r{n}", 1) for n in range(8)]
    before = [_drawn(cell) for cell in cells]
    after = [_refused(cell) if n < 4 else _drawn(cell) for n, cell in enumerate(cells)]
    comparison = Comparison(after, before, lambda request: KINDS, ClusterBootstrap(), 0.95)
    claim: Any = comparison.claim(1)
    assert claim.gain == pytest.approx(-0.5)
    assert [(kind.before, kind.after, kind.requests) for kind in claim.kinds] == [(1, 0.5, 8)] * 2
    edit = SectionEdit(section="role", text="Be bold.", hypothesis=Hypothesis(kinds=("count",)))
    assert comparison.tested(edit).hypothesis.change == pytest.approx(-0.5)
