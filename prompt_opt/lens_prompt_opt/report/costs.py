"""The section about cost: consumption by role, and the budget."""

from __future__ import annotations

from lens_prompt_opt.budget import Budget, SpendRow
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material

ROLES = {
    "rubric": "Rubric writer",
    "rewrite": "Reasoner",
    "generate": "Generator",
    "judge": "Judge",
    "fidelity": "Fidelity checker",
    "propose": "Proposer",
    "total": "Total",
}
_HEADS = ("Role", "Part", "Calls", "Images", "Cost", "Time in calls", "Share")


def costs(material: Material) -> Markup:
    """The section about cost."""
    result = material.result
    rows = spending_table(result.cost, dict(result.best.models))
    return join([rows, el("p", _limits(result.budget), class_="note")])


def spending_table(rows: tuple[SpendRow, ...], models: dict[str, str]) -> Markup:
    """Spending by role; shares are of dollars if there are any, otherwise of time."""
    parts = [row for row in rows if row.stage != "total"]
    paid = any(row.usd for row in parts)
    whole = sum(row.usd if paid else row.seconds for row in parts) or 1.0
    body: list[Markup] = []
    foot: list[Markup] = []
    for row in rows:
        value = row.usd if paid else row.seconds
        total = row.stage == "total"
        (foot if total else body).append(_row(row, models, 0.0 if total else value / whole))
    return el("div", table(_HEADS, body, foot, class_="wide costs cards"), class_="scroll")


def _row(row: SpendRow, models: dict[str, str], share: float) -> Markup:
    known = row.usd > 0 or row.unpriced < row.calls
    cost = wording.amount(row.usd) if known else "unknown"
    if known and row.unpriced:
        cost = f"≥ {cost}"
    bar = (
        el(
            "svg",
            el("title", f"{share:.0%}"),
            el("rect", x=0, y=2, width=100, height=8, rx=4, class_="track"),
            el("rect", x=0, y=2, width=max(100 * share, 1.0), height=8, rx=4, class_="fill-blue"),
            viewBox="0 0 100 12",
            preserveAspectRatio="xMinYMid",
            class_="share",
            role="img",
        )
        if row.stage != "total"
        else None
    )
    part = models.get(row.stage, "")
    cells = (
        el("th", ROLES.get(row.stage, row.stage), scope="row"),
        el("td", _named(part), class_="part" if part else "empty", data_head="Part"),
        el("td", f"{row.calls:,}", class_="num", data_head="Calls"),
        _pictures(row.images),
        el("td", cost, class_="num", data_head="Cost"),
        el("td", wording.duration(row.seconds), class_="num", data_head="Time"),
        el("td", bar, class_="chart" if bar else "empty"),
    )
    return el("tr", *cells)


def _pictures(count: int) -> Markup:
    if not count:
        return el("td", "—", class_="num empty", data_head="Images")
    return el("td", f"{count:,}", class_="num", data_head="Images")


def _named(part: str) -> Markup | str:
    short = part if len(part) <= 34 else f"{part[:33]}…"
    return el("span", short, title=part) if short != part else part


def _limits(budget: Budget) -> str:
    limits = [
        f"{wording.amount(budget.usd)}" if budget.usd is not None else "",
        wording.number(budget.images, "image") if budget.images is not None else "",
        wording.duration(budget.seconds) if budget.seconds is not None else "",
        wording.number(budget.calls, "call") if budget.calls is not None else "",
    ]
    listed = wording.listing([limit for limit in limits if limit])
    return (
        f"The budget was {listed}. Time in calls adds up concurrent calls; the total is "
        "wall-clock time."
    )
