"""The section about the prompt: changes from the seed prompt, section by section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from lens_prompt_opt.report.criteria import hypothesis
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.material import Material
from lens_reasoner.prompts import PromptSection

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")


def prompt_diff(material: Material) -> Markup:
    """The section about the prompt itself."""
    before = {s.name: s for s in material.seed.prompt.sections}
    after = {s.name: s for s in material.result.best.system_prompt.sections}
    blocks = [
        _section(name, before.get(name), after.get(name), material)
        for name in dict.fromkeys([*after, *before])
    ]
    whole = el(
        "details",
        el("summary", "Copy the whole prompt"),
        el("pre", material.result.best.text, tabindex="0"),
    )
    edits = material.result.best.hypotheses
    note = el("p", _NOTE, class_="note") if any(e.hypothesis.kinds for e in edits) else None
    return join([note, *blocks, whole])


_NOTE = (
    "The change beside an edit is measured on the test split, from the seed prompt to the "
    "optimised one, for the criteria the edit aims at. Edits with the same aim share it: it shows "
    "whether the aim was reached, but not which of them reached it."
)


def _section(
    name: str, old: PromptSection | None, new: PromptSection | None, material: Material
) -> Markup:
    if old is not None and new is not None and old.text == new.text:
        kept = "protected, unchanged" if old.protected else "unchanged"
        return el(
            "details",
            el("summary", name, " ", el("span", kept, class_="chip soft")),
            el("p", new.text, class_="prompt-text"),
            class_="section",
        )
    word, colour = ("changed", "blue")
    if old is None or new is None:
        word, colour = ("removed", "bad") if new is None else ("added", "good")
    edits = [e for e in material.result.best.hypotheses if e.section == name]
    return el(
        "div",
        el("h3", name, " ", el("span", word, class_=f"chip {colour}")),
        el("p", *_words(old.text if old else "", new.text if new else ""), class_="prompt-text"),
        *(hypothesis(edit) for edit in edits),
        class_="section",
    )


def _words(old: str, new: str) -> Iterator[Markup | str]:
    """Pieces of both texts, with removals and additions marked."""
    before, after = _PIECE.findall(old), _PIECE.findall(new)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < 0.6:
        # Texts with little in common are easier to read one after the other.
        if old:
            yield el("del", old)
        if new:
            yield el("ins", new)
        return
    for what, a, b, c, d in matcher.get_opcodes():
        if what == "equal":
            yield "".join(before[a:b])
            continue
        if a < b:
            yield el("del", "".join(before[a:b]))
        if c < d:
            yield el("ins", "".join(after[c:d]))
