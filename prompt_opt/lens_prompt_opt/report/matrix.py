"""The section about several generators: every prompt on every generator, and transfer losses."""

from __future__ import annotations

from lens_prompt_opt.card import GainClaim
from lens_prompt_opt.edits import SectionEdit
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.markup import Markup, el, join, table
from lens_prompt_opt.report.material import Material
from lens_prompt_opt.transfer import (
    SEED_ROW,
    SHARED_ROW,
    GeneratorMatrix,
    GeneratorPrompt,
    MatrixEntry,
    TransferLoss,
)

_ROWS = {SEED_ROW: "seed prompt", SHARED_ROW: "shared prompt"}


def matrix(material: Material) -> Markup | None:
    """The section about generators; None if there is only one."""
    found = material.result.matrix
    if found is None:
        return None
    own = [_own(prompt) for prompt in material.result.per_generator]
    return join([_table(found), _losses(found), el("div", *own, class_="challenges")])


def _name(prompt: str) -> str:
    return _ROWS.get(prompt, f"prompt for {prompt}")


def _table(found: GeneratorMatrix) -> Markup:
    scores = [entry.score for entry in found.entries if entry.score is not None]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    heads = ("Share of criteria met", *found.generators)
    rows = [
        el(
            "tr",
            el("th", _name(prompt), scope="row"),
            *(_cell(found.entry(prompt, name), low, high) for name in found.generators),
        )
        for prompt in found.prompts
    ]
    note = (
        f"On the test split. Small print: the gain over the seed prompt with its "
        f"{found.confidence:.0%} interval; intervals are not corrected for multiple comparisons."
    )
    shown = table(heads, rows, class_="matrix")
    scroll = el("div", shown, class_="scroll", tabindex="0", role="region", aria_label="Matrix")
    return join([scroll, el("p", note, class_="note")])


def _cell(entry: MatrixEntry, low: float, high: float) -> Markup:
    if entry.score is None:
        return el("td", "—", class_="num none")
    shade = 1 + round(5 * (entry.score - low) / ((high - low) or 1.0))
    small = None
    if entry.gain is not None and entry.interval is not None:
        small = el("small", f"{wording.points(entry.gain)} ({wording.interval(entry.interval)})")
    home = entry.prompt == entry.generator
    return el(
        "td",
        el("b", f"{wording.points(entry.score, sign=False)} %"),
        small,
        class_=f"num accent-{shade}{' home' if home else ''}",
    )


def _losses(found: GeneratorMatrix) -> Markup | None:
    if not found.losses:
        return None
    heads = ("Prompt", "Used on", "Loss against that generator's own", "Requests")
    losses = table(heads, map(_loss, found.losses), class_="cards")
    return el("details", el("summary", "Loss on transfer"), el("div", losses, class_="scroll"))


def _loss(loss: TransferLoss) -> Markup:
    low, high = loss.interval
    colour = "bad" if low > 0 else "good" if high < 0 else "soft"
    return el(
        "tr",
        el("th", _name(loss.prompt), scope="row"),
        el("td", loss.generator, data_head="Used on"),
        el(
            "td",
            el(
                "span",
                el("b", wording.points(loss.loss), class_=colour),
                el("small", f" {wording.interval(loss.interval)}"),
            ),
            class_="num",
            data_head="Lost",
        ),
        el("td", f"{loss.requests:,}", class_="num", data_head="Requests"),
    )


def _own(found: GeneratorPrompt) -> Markup:
    accepted = any(decision.accepted for decision in found.history.decisions)
    word, colour = ("own prompt", "good") if accepted else ("the shared prompt", "soft")
    claim = found.card.claim
    edits = [e for c in found.card.lineage[1:] for e in c.edits] if accepted else []
    return el(
        "article",
        el("h3", found.generator, " ", el("span", word, class_=f"chip {colour}")),
        el("p", _claimed(claim)) if claim is not None else None,
        el("ul", *(el("li", _edit(edit)) for edit in edits)) if edits else None,
        class_="card",
    )


def _claimed(claim: GainClaim) -> str:
    gain, bounds = wording.points(claim.gain), wording.interval(claim.interval)
    return f"{gain} points against the seed prompt ({bounds})"


def _edit(edit: SectionEdit) -> str:
    text = f": {edit.text}" if edit.text else ""
    return f"{edit.kind} {edit.section}{text}"
