"""The section about failures: failure modes by round and by the part at fault."""

from __future__ import annotations

from collections.abc import Sequence

from lens_prompt_opt.history import FailureRecord
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material, evenly_spaced
from lens_reasoner.revision import Fault

_MOST_COLUMNS, _MOST_ROWS = 10, 14
_SHADES = 6
_COLOURS: dict[str, str] = {"reasoner": "accent", "generator": "warn", "judge": "soft"}


def failures(material: Material) -> Markup:
    """The section about failure modes."""
    numbered = list(enumerate(material.result.history.failures, start=1))
    records = evenly_spaced(numbered, _MOST_COLUMNS)
    if not records:
        return el("p", "There are no failures to show.", class_="soft")
    return join([_legend(), _table(records), _examples(records[-1])])


def _legend() -> Markup:
    items = [
        el("li", el("span", class_=f"dot fill-{_COLOURS[fault]}"), f"fault of the {said}")
        for fault, said in wording.FAULTS.items()
    ]
    note = el("li", "only these system-prompt failures are worth an edit", class_="soft")
    return el("ul", *items, note, class_="legend")


def _table(records: Sequence[tuple[int, FailureRecord]]) -> Markup:
    totals: dict[tuple[Fault, str], int] = {}
    for _, record in records:
        for mode in record.modes:
            key = mode.fault, mode.name
            totals[key] = totals.get(key, 0) + mode.count
    order = ("reasoner", "generator", "judge")
    ranked = sorted(totals, key=lambda key: (order.index(key[0]), -totals[key], key[1]))
    most = max((m.share for _, r in records for m in r.modes), default=0.0) or 1.0
    heads = ["Failure mode, by round", *(f"{number}" for number, _ in records)]
    rows = [_row(fault, name, records, most) for fault, name in ranked[:_MOST_ROWS]]
    checked = [el("td", f"{record.checked:,}", class_="num") for _, record in records]
    foot = el("tr", el("th", "criteria checked", scope="row"), *checked)
    modes = table(heads, rows, [foot], class_="heat")
    left = len(ranked) - _MOST_ROWS
    more = el("p", f"{wording.number(left, 'rarer mode')} not shown.", class_="note")
    scroll = el(
        "div", modes, class_="scroll", tabindex="0", role="region", aria_label="Failure modes"
    )
    return join([scroll, more if left > 0 else None])


def _row(
    fault: Fault, name: str, records: Sequence[tuple[int, FailureRecord]], most: float
) -> Markup:
    cells = []
    for _, record in records:
        mode = next((m for m in record.modes if (m.fault, m.name) == (fault, name)), None)
        if mode is None:
            cells.append(el("td", "·", class_="num none"))
            continue
        shade = max(1, round(_SHADES * mode.share / most))
        title = f"{mode.count} of {record.checked} criteria, {mode.share:.1%}"
        cells.append(
            el("td", f"{mode.count}", title=title, class_=f"num {_COLOURS[fault]}-{shade}")
        )
    dot = el("span", class_=f"dot fill-{_COLOURS[fault]}")
    return el("tr", el("th", dot, name, scope="row"), *cells)


def _examples(last: tuple[int, FailureRecord]) -> Markup | None:
    number, record = last
    items = []
    for mode in record.modes[:5]:
        shown = mode.examples[0] if mode.examples else None
        if shown is None:
            continue
        items.append(
            el(
                "li",
                el("b", mode.name),
                f": “{shown.request}”. {shown.criterion.question} ",
                el("span", f"Seen: {shown.evidence}. " if shown.evidence else "", class_="soft"),
                el("q", shown.rewrite) if shown.rewrite else None,
            )
        )
    if not items:
        return None
    summary = el("summary", f"An example of each main failure mode of round {number}")
    return el("details", summary, el("ul", *items, class_="examples"))
