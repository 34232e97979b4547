"""The sections about variance, guards and provenance."""

from __future__ import annotations

from collections.abc import Sequence

from lens_prompt_opt.report import wording
from lens_prompt_opt.report.costs import ROLES
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material
from lens_prompt_opt.statistics.variance import SOURCES, Purchase, Source

_SOURCES: dict[Source, tuple[str, str]] = {
    "request": ("requests", "blue"),
    "rewriter": ("rewrites of a request", "good"),
    "seed": ("image seeds", "warn"),
    "judge": ("repeated judgements", "bad"),
}
_WIDTH = 640.0


def variance(material: Material) -> Markup:
    """The section about the variance of scores."""
    ledger = material.result.variance
    if ledger is None:
        return el("p", "The budget was too small to measure it.", class_="soft")
    x, bars, words = 0.0, [], []
    for source in SOURCES:
        said, colour = _SOURCES[source]
        share = ledger.shares[source]
        title = el("title", f"{said}: {share:.0%}")
        width = _WIDTH * share
        bars.append(el("rect", title, x=x, y=0, width=width, height=26, class_=f"fill-{colour}"))
        words.append(
            el("li", el("span", class_=f"dot fill-{colour}"), el("b", f"{share:.0%} "), said)
        )
        x += width
    bar = el(
        "svg",
        *bars,
        viewBox=f"0 0 {_WIDTH:g} 26",
        class_="stack",
        preserveAspectRatio="none",
        role="img",
    )
    note = (
        f"From {wording.number(ledger.observations, 'score')} of the seed prompt on the first "
        f"block; the mean score was {wording.points(ledger.mean, sign=False)} %."
    )
    parts = [bar, el("ul", *words, class_="legend"), el("p", note, class_="note")]
    return join([*parts, _purchases(ledger.purchases)])


def _purchases(purchases: Sequence[Purchase]) -> Markup | None:
    if not purchases:
        return None
    heads = ("To reduce the variance, buy", "Variance reduction", "Value for money")
    rows = [
        el(
            "tr",
            el("th", purchase.what, scope="row"),
            el("td", f"{purchase.variance_cut:.0%}", class_="num"),
            el("td", f"× {purchase.worth:.2f}", class_="num"),
        )
        for purchase in purchases
    ]
    return table(heads, rows)


def guards(material: Material) -> Markup:
    """The section about guards."""
    history = material.result.history
    found = [
        (record.candidate.id, guard) for record in history.candidates for guard in record.guards
    ]
    found += [(d.challenger, guard) for d in history.decisions for guard in d.guards]
    rules = {} if material.study is None else material.study.guards
    limits = [
        el("li", el("b", f"{_RULES[name]}: "), _limit(value))
        for name, value in rules.items()
        if name in _RULES and value not in ([], "")
    ]
    items = [
        el("li", el("code", candidate), f" {guard.guard}: {guard.message}")
        for candidate, guard in found
    ]
    said = (
        f"{wording.number(len(items), 'guard finding')} against candidates."
        if items
        else "No candidate was rejected by a guard."
    )
    dropped = [el("li", text) for text in history.dropped]
    return join(
        [
            el("p", said),
            el("ul", *items) if items else None,
            el("details", el("summary", "The limits"), el("ul", *limits)) if limits else None,
            el("details", el("summary", f"{len(dropped)} edits did not apply"), el("ul", *dropped))
            if dropped
            else None,
        ]
    )


_RULES = {
    "protected": "sections that must not change",
    "keep": "phrases that must stay",
    "max_characters": "maximum prompt length, in characters",
    "copied_words": "consecutive words that count as copied from a request",
    "max_lost": "maximum increase in criteria lost by rewrites",
    "min_diversity": "minimum diversity between seeds, relative to the incumbent",
    "max_cut": "maximum share of rewrites longer than the generator reads",
    "max_undecided": "maximum increase in criteria the judge cannot decide",
}


def _limit(value: object) -> str:
    if isinstance(value, list):
        return wording.listing([str(name) for name in value])
    return f"{value:.0%}" if isinstance(value, float) else f"{value:,}"


def provenance(material: Material) -> Markup:
    """The section about provenance."""
    card = material.result.best
    parts = [
        el("div", el("dt", ROLES.get(stage, stage)), el("dd", el("code", name)))
        for stage, name in card.models.items()
    ]
    data = [
        el("div", el("dt", f"SHA-256 of {name} requests"), el("dd", el("code", digest[:16])))
        for name, digest in card.data.items()
    ]
    facts = [
        el("div", el("dt", name), el("dd", el("code", value)))
        for name, value in (
            ("Strategy", card.strategy),
            ("Seed of the study", str(card.seed)),
            ("Prompt", card.system_prompt.label),
            ("lens-sdk", card.version),
        )
    ]
    notes = [el("li", note) for note in material.result.history.notes]
    return join(
        [
            el("dl", *facts, *parts, *data, class_="facts"),
            el("details", el("summary", wording.number(len(notes), "note")), el("ul", *notes))
            if notes
            else None,
        ]
    )
