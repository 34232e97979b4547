"""The first block of a study: the seed prompt on nested cells, to measure where scores vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.statistics.variance import (
    Observation,
    SamplingPlan,
    VarianceLedger,
    variance_ledger,
)


async def calibrate(desk: Desk, requests: int, plan: SamplingPlan) -> VarianceLedger | None:
    """Evaluate the block and split the variance; None if it is disabled or does not fit.

    Args:
        desk: The study's desk; only its first generator is used.
        requests: Number of requests; below 2 the block is skipped.
        plan: How the gate evaluates a prompt; the ledger's advice compares with it.
    """
    if requests < 2:
        return None
    stream = desk.stream("calibration", pictures=4)
    try:
        outcomes = await desk.evaluate(desk.seed, nested(next(stream.blocks(requests))))
    except BudgetExhaustedError:
        return None
    observations = [
        Observation(o.cell.request, o.cell.draw, o.cell.seed, o.cell.vote, o.score)
        for o in outcomes
        if o.score is not None
    ]
    unit: Literal["usd", "seconds"] = "usd" if desk.ledger.usd > 0 else "seconds"
    return variance_ledger(observations, plan, desk.ledger.unit_prices(unit))


def nested(cells: Sequence[Cell]) -> list[Cell]:
    """Two rewrites per request, two images per rewrite, two judgements of the first image."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.generator == 0:
            found.setdefault(cell.request, []).append(cell)
    chosen = []
    for group in found.values():
        for place, cell in enumerate(group):
            # Cells 0 and 1 share the rewrite of cell 0, cells 2 and 3 that of cell 2.
            chosen.append(cell._replace(draw=group[place - place % 2].draw))
        chosen.append(chosen[-len(group)]._replace(vote=1))
    return chosen
