"""The section with images of the test split before and after, at equal seeds."""

from __future__ import annotations

from collections.abc import Sequence, Set

from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.material import Material, evenly_spaced
from lens_prompt_opt.report.thumbnails import Thumbnails
from lens_prompt_opt.result import PicturePair, Side

MOST_PAIRS = 24
MOST_BYTES = 6_000_000

_CHANGES = {"better": "better", "same": "unchanged", "worse": "worse"}


def pictures(material: Material) -> Markup:
    """The section with images."""
    scored = sorted(material.scored_pairs(), key=lambda pair: -pair[0])
    if not scored:
        return el("p", "There are no images of the test split.", class_="soft")
    chosen = evenly_spaced(scored, MOST_PAIRS)
    store = Thumbnails(material.pictures, room=MOST_BYTES)
    cards = [_card(gain, pair, material, store) for gain, pair in chosen]
    kinds = {_change(gain) for gain, _ in chosen}
    return join([_intro(scored, chosen), _filters(kinds), el("div", *cards, class_="pairs")])


def _change(gain: float) -> str:
    return "better" if gain > 1e-9 else "worse" if gain < -1e-9 else "same"


def _intro(
    scored: Sequence[tuple[float, PicturePair]], chosen: Sequence[tuple[float, PicturePair]]
) -> Markup:
    kinds = [_change(gain) for gain, _ in scored]
    tally = [(kinds.count(kind), said, kind) for kind, said in _CHANGES.items()]
    width, x, bars = 640.0, 0.0, []
    for count, said, kind in tally:
        span = width * count / len(scored)
        title, hue = el("title", f"{count} {said}"), f"fill-{_HUES[kind]}"
        bars.append(el("rect", title, x=x, y=0, width=span, height=12, class_=hue))
        x += span
    bar = el("svg", *bars, viewBox=f"0 0 {width:g} 12", class_="tally", preserveAspectRatio="none")
    words = [
        el("li", el("span", class_=f"dot fill-{_HUES[kind]}"), el("b", f"{count:,} "), said)
        for count, said, kind in tally
    ]
    shown = (
        f"All {len(scored)} pairs are shown"
        if len(chosen) == len(scored)
        else f"{len(chosen)} of {len(scored):,} pairs are shown, evenly spaced from the largest "
        "gain to the largest loss"
    )
    note = f"{shown}. Both images of a pair have the same seed."
    return join([bar, el("ul", *words, class_="legend"), el("p", note, class_="note")])


_HUES = {"better": "good", "same": "soft", "worse": "bad"}


def _filters(kinds: Set[str]) -> Markup:
    names = {"all": "All", "better": "Better", "same": "Unchanged", "worse": "Worse"}
    buttons = [
        el(
            "button",
            said,
            type="button",
            data_show=kind,
            aria_pressed="true" if kind == "all" else "false",
        )
        for kind, said in names.items()
        if kind in kinds | {"all"}
    ]
    label = "Filter pairs"
    return el("div", *buttons, class_="filters", role="group", aria_label=label, hidden=True)


def _card(gain: float, pair: PicturePair, material: Material, store: Thumbnails) -> Markup:
    kind = _change(gain)
    names = material.result.generators
    place = names[pair.generator] if len(names) > 1 else ""
    change = "unchanged" if kind == "same" else f"{wording.points(gain)} points"
    return el(
        "article",
        el("h3", pair.request),
        el(
            "p",
            el("span", change, class_=f"chip {_HUES[kind]}"),
            f" seed {pair.seed}",
            f", {place}" if place else None,
            class_="note",
        ),
        el(
            "div",
            _side("Seed prompt", pair.before, store),
            _side("Optimised", pair.after, store),
            class_="sides",
        ),
        _verdicts(pair),
        el(
            "details",
            el("summary", "Full prompts"),
            el("p", el("b", "Seed prompt: "), pair.before.rewrite or pair.before.failure),
            el("p", el("b", "Optimised: "), pair.after.rewrite or pair.after.failure),
        ),
        class_="card pair",
        data_change=kind,
    )


def _side(name: str, side: Side, store: Thumbnails) -> Markup:
    uri = store.uri(side.image)
    picture = (
        el("img", src=uri, alt=f"{name}: {side.rewrite}", decoding="async")
        if uri
        else el("div", "not kept" if side.image else "no image", class_="missing")
    )
    score = "—" if side.score is None else f"{wording.points(side.score, sign=False)} %"
    drawn = el("span", side.rewrite or side.failure, class_="clamp")
    caption = el("figcaption", f"{name} ", el("b", score.replace(".0 %", " %")), drawn)
    return el("figure", picture, caption)


def _verdicts(pair: PicturePair) -> Markup | None:
    names = dict.fromkeys([*pair.questions, *pair.before.answers, *pair.after.answers])
    if not names:
        return None
    rows = [
        el(
            "tr",
            el("th", pair.questions.get(name, name), scope="row"),
            *(_answer(side, name) for side in (pair.before, pair.after)),
        )
        for name in names
    ]
    columns = [el("th", head, scope="col") for head in ("Criterion", "Before", "After")]
    return el(
        "table",
        el("thead", el("tr", *columns), class_="quiet"),
        el("tbody", *rows),
        class_="verdicts",
    )


def _answer(side: Side, name: str) -> Markup:
    mark, colour, meaning = wording.ANSWERS[side.answers.get(name)]
    seen = side.evidence.get(name, "")
    return el(
        "td",
        el(
            "span",
            mark,
            class_=f"mark {colour}",
            role="img",
            aria_label=meaning,
            title=f"{meaning}: {seen}" if seen else meaning,
        ),
    )
