"""The section about kinds of criteria, and the hypotheses of edits."""

from __future__ import annotations

from lens_prompt_opt.card import KindChange
from lens_prompt_opt.edits import SectionEdit
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material

_WIDTH, _HEIGHT = 300.0, 26.0


def criteria(material: Material) -> Markup:
    """The section about kinds of criteria."""
    claim = material.result.claim
    if claim is None or not claim.kinds:
        return el("p", "Nothing was measured on the test split.", class_="soft")
    heads = ("Kind", "Met: before and after", "", "Change, 95 % interval", "Requests")
    ranked = sorted(claim.kinds, key=lambda kind: kind.before - kind.after)
    kinds = table(heads, map(_row, ranked), class_="kinds cards")
    note = "Descriptive: the intervals are not corrected for multiple comparisons."
    return join([kinds, el("p", note, class_="note")])


def _row(kind: KindChange) -> Markup:
    change = kind.after - kind.before
    low, high = kind.interval
    colour = "good" if low > 0 else "bad" if high < 0 else "soft"
    before, after = (wording.points(rate, sign=False) for rate in (kind.before, kind.after))
    shown = el(
        "span",
        el("b", wording.points(change), class_=colour),
        el("small", f" {wording.interval(kind.interval)}"),
    )
    return el(
        "tr",
        el("th", kind.kind, scope="row"),
        el("td", _dumbbell(kind, colour), class_="chart"),
        el("td", f"{before} → {after} %", class_="num", data_head="Met"),
        el("td", shown, class_="num", data_head="Change"),
        el("td", f"{kind.requests:,}", class_="num", data_head="Requests"),
    )


def _dumbbell(kind: KindChange, colour: str) -> Markup:
    before, after = (10 + (_WIDTH - 20) * rate for rate in (kind.before, kind.after))
    return el(
        "svg",
        el("title", f"{kind.kind}: from {kind.before:.0%} to {kind.after:.0%}"),
        el("line", x1=10, x2=_WIDTH - 10, y1=13, y2=13, class_="gridline"),
        el("line", x1=before, x2=after, y1=13, y2=13, class_=f"change {colour}"),
        el("circle", cx=before, cy=13, r=5.0, class_="ring-soft"),
        el("circle", cx=after, cy=13, r=6.5, class_=f"fill-{colour}"),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        preserveAspectRatio="xMinYMid",
        class_="dumbbell",
        role="img",
    )


def hypothesis(edit: SectionEdit) -> Markup | None:
    """What an edit was meant to do, and its test result."""
    known = edit.hypothesis
    if not (known.failure_mode or known.reason or known.kinds):
        return None
    word, colour = wording.STATUSES[known.status] if known.kinds else ("no specific aim", "soft")
    aim = f"aimed at {wording.listing(known.kinds)}" if known.kinds else ""
    change = ""
    if known.kinds and known.change is not None and known.interval is not None:
        change = f"{wording.points(known.change)} points ({wording.interval(known.interval)})"
    return el(
        "p",
        el("span", word, class_=f"chip {colour}"),
        " ",
        el("b", f"{change}, ") if change else None,
        _sentence(aim, known.failure_mode, known.reason),
        class_="hypothesis",
    )


def _sentence(aim: str, failure_mode: str, reason: str) -> str:
    parts = (
        aim,
        f"against “{failure_mode}”" if failure_mode else "",
        f"because {reason}" if reason else "",
    )
    return f"{', '.join(filter(None, parts))}."
