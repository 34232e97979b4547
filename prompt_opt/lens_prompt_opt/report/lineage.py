"""The section about candidates: a tree of their origins, and a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material

Fate = Literal["seed", "accepted", "rejected", "guarded", "kept", "dropped"]

FATES: dict[Fate, tuple[str, str]] = {
    "seed": ("seed prompt", "accent"),
    "accepted": ("accepted by the gate", "good"),
    "rejected": ("challenged, not accepted", "bad"),
    "guarded": ("rejected by a guard", "warn"),
    "kept": ("kept by the search", "blue"),
    "dropped": ("tried, not kept", "soft"),
}
"""The fate of a candidate: description and colour."""

_COLUMN, _ROW, _TOP, _LEFT = 168, 22, 30, 26


@dataclass(frozen=True)
class Node:
    """A candidate and its position in the tree."""

    candidate: Candidate
    fate: Fate
    x: float
    y: float


def lineage(material: Material) -> Markup:
    """The section about candidates."""
    nodes = _place(material)
    seen = {node.fate for node in nodes.values()}
    legend = [
        el("li", el("span", class_=f"dot fill-{colour}"), said)
        for fate, (said, colour) in FATES.items()
        if fate in seen
    ]
    return join(
        [
            el("ul", *legend, class_="legend"),
            el(
                "div",
                _tree(nodes, material),
                class_="scroll",
                tabindex="0",
                role="region",
                aria_label="Tree of candidates",
            ),
            _hypotheses(material),
            _list(nodes, material),
        ]
    )


def _hypotheses(material: Material) -> Markup | None:
    """How many hypotheses were confirmed on the search split."""
    tested = Counter(edit.hypothesis.status for edit in material.result.history.hypotheses)
    if not tested:
        return None
    parts = [
        f"{tested[status]:,} {said}"
        for status, (said, _) in wording.STATUSES.items()
        if tested[status]
    ]
    count = wording.number(tested.total(), "test of a hypothesis", "tests of hypotheses")
    return el("p", f"{count} on the search split: {wording.listing(parts)}.", class_="note")


def _fate(material: Material, candidate: Candidate, kept: set[str]) -> Fate:
    decisions = material.decisions.get(candidate.id, [])
    records = {r.candidate.id: r for r in material.result.history.candidates}
    if candidate.id == material.seed.id:
        return "seed"
    if any(decision.accepted for decision in decisions):
        return "accepted"
    if records[candidate.id].guards or any(d.verdict == "guarded" for d in decisions):
        return "guarded"
    if decisions:
        return "rejected"
    return "kept" if candidate.id in kept else "dropped"


def _kept(material: Material) -> set[str]:
    """Candidates that others descend from, or whose only edit was merged into a sibling."""
    found: set[str] = set()
    everything = list(material.candidates.values())
    merged = {
        (parent, edit.section, edit.text)
        for candidate in everything
        if len(candidate.edits) > 1 or candidate.origin == "composite"
        for parent in candidate.parents
        for edit in candidate.edits
    }
    for candidate in everything:
        found.update(candidate.parents)
        if candidate.origin == "composite":
            found.add(candidate.id)
        for edit in candidate.edits[:1]:
            if any((parent, edit.section, edit.text) in merged for parent in candidate.parents):
                found.add(candidate.id)
    return found


def _place(material: Material) -> dict[str, Node]:
    """Columns by round; the ancestors of the best prompt are in the first row."""
    kept, trunk = _kept(material), {c.id for c in material.result.best.lineage}
    parents = {parent for c in material.candidates.values() for parent in c.parents}
    columns: dict[int, list[Candidate]] = {}
    for candidate in material.candidates.values():
        columns.setdefault(candidate.round, []).append(candidate)
    nodes: dict[str, Node] = {}
    for column, number in enumerate(sorted(columns)):
        fates = {c.id: _fate(material, c, kept) for c in columns[number]}
        order = sorted(
            columns[number],
            key=lambda c: (c.id not in trunk, c.id not in parents, list(FATES).index(fates[c.id])),
        )
        first = 0 if order[0].id in trunk else 1
        for row, candidate in enumerate(order, start=first):
            x, y = _LEFT + column * _COLUMN, _TOP + row * _ROW
            nodes[candidate.id] = Node(candidate, fates[candidate.id], x, y)
    return nodes


def _tree(nodes: dict[str, Node], material: Material) -> Markup:
    width = max(node.x for node in nodes.values()) + _COLUMN - 20
    height = max(node.y for node in nodes.values()) + _ROW
    best = material.result.best.lineage[-1].id
    trunk = {candidate.id for candidate in material.result.best.lineage}
    edges, marks = [], []
    for node in nodes.values():
        for number, parent in enumerate(node.candidate.parents):
            if parent in nodes:
                edges.append(_edge(nodes[parent], node, trunk, other=number > 0))
        leading = node.candidate.id in trunk or node.candidate.origin == "composite"
        marks.append(_mark(node, best=node.candidate.id == best, leading=leading))
    rounds = {node.x: node.candidate.round for node in nodes.values()}
    heads = [
        el("text", "start" if not number else f"round {number}", x=x - 6, y=12, class_="axis")
        for x, number in rounds.items()
    ]
    return el(
        "svg",
        *heads,
        el("g", *edges, class_="edges"),
        *marks,
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="tree",
    )


def _edge(parent: Node, child: Node, trunk: set[str], *, other: bool) -> Markup:
    on_trunk = {parent.candidate.id, child.candidate.id} <= trunk and not other
    bend = child.x - 34
    path = f"M{parent.x:g} {parent.y:g} C{bend:g} {parent.y:g} {bend:g} {child.y:g} "
    kind = "trunk" if on_trunk else "other" if other else "twig"
    return el("path", d=f"{path}{child.x:g} {child.y:g}", class_=kind)


def _mark(node: Node, *, best: bool, leading: bool) -> Markup:
    candidate, (said, colour) = node.candidate, FATES[node.fate]
    leading = leading or node.fate in {"accepted", "rejected"}
    ring = el("circle", cx=node.x, cy=node.y, r=10.0, class_="ring") if best else None
    name = "seed" if node.fate == "seed" else _what(candidate)
    return el(
        "a",
        el("title", f"{candidate.id}: {name}; {said}"),
        ring,
        el("circle", cx=node.x, cy=node.y, r=6.0 if leading else 4.0, class_=f"fill-{colour}"),
        el(
            "text",
            _short(name),
            x=node.x + 14,
            y=node.y + 4,
            class_="strong" if leading else "",
        ),
        href=f"#c-{candidate.id}",
    )


def _what(candidate: Candidate) -> str:
    """A short description of what a candidate changes."""
    names = [f"{_SIGNS[edit.kind]}{edit.section}" for edit in candidate.edits]
    if len(names) > 1:
        return f"{candidate.origin} of {len(names)}"
    return names[0] if names else candidate.origin


_SIGNS = {"add": "+ ", "remove": f"{wording.MINUS} ", "replace": ""}


def _short(text: str, most: int = 20) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _list(nodes: dict[str, Node], material: Material) -> Markup:
    ranked = sorted(nodes.values(), key=lambda node: (node.candidate.round, node.y))
    rows = [_row(node, material) for node in ranked]
    listed = table(_HEADS, rows, class_="wide cards")
    label = f"All {wording.number(len(nodes), 'candidate')} as a table"
    return el("details", el("summary", label), el("div", listed, class_="scroll"), id="candidates")


_HEADS = ("Candidate", "Change", "Why", "On the search split", "At the gate")


def _row(node: Node, material: Material) -> Markup:
    candidate, (said, colour) = node.candidate, FATES[node.fate]
    known = material.tested(candidate.edits[0]) if len(candidate.edits) == 1 else None
    screens = [s for s in material.result.history.screens if s.candidate == candidate.id]
    screened = "".join(
        f"{wording.points(s.gain)} ± {wording.points(1.96 * s.error, sign=False)} points"
        for s in screens[-1:]
    )
    if known is not None and known.hypothesis.change is not None:
        status = wording.STATUSES[known.hypothesis.status][0]
        screened = f"{wording.points(known.hypothesis.change)} points on its aim: {status}"
    reasons = [edit.hypothesis.reason for edit in candidate.edits if edit.hypothesis.reason]
    gate = [
        f"{wording.VERDICTS[d.verdict][0]}, {wording.evidence(d, betting=material.betting)}"
        for d in material.decisions.get(candidate.id, [])
    ]
    why = "; ".join(reasons) if len(reasons) <= 2 else f"{len(reasons)} reasons, see its edits"
    cells = (
        ", ".join(_SIGNS[edit.kind] + edit.section for edit in candidate.edits),
        why,
        screened,
        "; ".join(gate),
    )
    chip = el("span", said, class_=f"chip {colour}")
    name = el("th", el("code", candidate.id), el("br"), chip, scope="row")
    columns = [
        el("td", cell or "—", data_head=head, class_=None if cell else "empty")
        for head, cell in zip(_HEADS[1:], cells, strict=True)
    ]
    return el("tr", name, *columns, id=f"c-{candidate.id}", tabindex="-1")
