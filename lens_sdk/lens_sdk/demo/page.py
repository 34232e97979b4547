"""The demo's page: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from lens_prompt_opt.report.markup import Markup, el, join
from lens_reasoner import Candidate, LoopResult, Refused
from lens_sdk.demo.cases import DemoCase
from lens_sdk.pages.document import document
from lens_sdk.pages.verdicts import picture, score_badge, verdict_list

TITLE = "From a request to a judged image"


def render_page(cases: Sequence[DemoCase], *, model: str, command: str, runs: str) -> str:
    """Return the page as HTML, with images as data URIs and no external resources.

    Args:
        cases: The cases to show.
        model: Name of the model that generated the images.
        command: The command line that makes this page again.
        runs: The folder of recorded runs, as for `lens calibrate --runs`.
    """
    lead = el(
        "p",
        "Images for each request were generated twice by ",
        el("b", model),
        " from the same seeds: once as asked, once after it was rewritten into a detailed "
        "prompt. A judge then checked each image against the request, criterion by criterion.",
        class_="lead",
    )
    return document(
        f"Lens SDK: {TITLE.lower()}",
        header=el("header", el("p", "Lens SDK", class_="brand"), el("h1", TITLE), lead),
        main=el(
            "main", _summary(cases), *(_case(n, case) for n, case in enumerate(cases, start=1))
        ),
        footer=el("footer", "Made with ", el("code", command), class_="bottom"),
        style=files("lens_sdk.demo").joinpath("page.css").read_text(encoding="utf-8"),
        runs=runs,
    )


def _summary(cases: Sequence[DemoCase]) -> Markup:
    before, after = _tally(case.before for case in cases), _tally(case.after for case in cases)
    pictures = [c for case in cases for c in (*case.before.candidates, *case.after.candidates)]
    drawing = sum(c.image.timings.get("generate", 0.0) for c in pictures)
    rewriting = [case.after.timings["rewrite"] for case in cases if "rewrite" in case.after.timings]
    tiles = [
        _tile(str(len(cases)), "requests"),
        _tile(str(len(pictures)), "images"),
        _tile(f"{drawing / max(1, len(pictures)):.1f} s", "to generate an image"),
        _tile(f"{sum(rewriting) / max(1, len(rewriting)):.1f} s", "to rewrite a request"),
    ]
    bars = el(
        "div",
        el("h2", "Criteria satisfied by the best image of each request"),
        _bar("As asked", before),
        _bar("Rewritten", after),
        class_="bars",
    )
    return el("section", bars, el("div", *tiles, class_="tiles"), class_="summary")


def _tally(results: Iterable[LoopResult]) -> tuple[int, int]:
    """Count the criteria met and the criteria asked, over each run's best image."""
    verdicts = [r.best.verdict for r in results if r.best is not None and r.best.verdict]
    lines = [line for verdict in verdicts for line in verdict.verdicts]
    return sum(line.answer == "yes" for line in lines), len(lines)


def _bar(name: str, tally: tuple[int, int]) -> Markup:
    satisfied, asked = tally
    share = 100 * satisfied / asked if asked else 0
    return el(
        "div",
        el("span", name, class_="bar-name"),
        el("span", el("span", class_="fill", style=f"width:{share:.1f}%"), class_="track"),
        el("span", f"{satisfied} of {asked}", class_="bar-value"),
        class_="bar",
    )


def _tile(value: str, label: str) -> Markup:
    return el("div", el("strong", value), el("span", label), class_="tile")


def _case(number: int, case: DemoCase) -> Markup:
    name = f"request-{number}"
    variants = [_variant("Generated as asked", case.after)]
    if case.rewritten:
        variants = [_variant("As asked", case.before), _variant("Rewritten", case.after)]
    return el(
        "article",
        el(
            "header",
            el("a", str(number), class_="number", href=f"#{name}", aria_label=f"Request {number}"),
            el("div", el("h2", case.text), _prompt(case)),
        ),
        el("div", *variants, class_="variants"),
        class_="case",
        id=name,
    )


def _prompt(case: DemoCase) -> Markup:
    rewrite = case.after.rewrite
    if rewrite is None:
        return el("p", "Nothing was rewritten.", class_="note")
    if isinstance(rewrite, Refused):
        return el("p", f"Refused: {rewrite.reason}", class_="note")
    if not case.rewritten:
        why = rewrite.model.removeprefix("none: ")
        return el("p", f"Not rewritten: {why}.", class_="note")
    by = f"Rewritten by {rewrite.model} in {rewrite.seconds:.1f} s"
    return el("blockquote", rewrite.prompt, el("footer", by))


def _variant(title: str, result: LoopResult) -> Markup:
    best = result.best
    judged = best.verdict if best is not None else None
    pictures = (
        _picture(candidate, best=index == result.best_index)
        for index, candidate in enumerate(result.candidates)
    )
    notes = (el("p", note, class_="note") for note in result.notes)
    return el(
        "section",
        el("h3", title, None if best is None else score_badge(best.score)),
        el("div", *pictures, class_="pictures"),
        None if judged is None else verdict_list(judged, result.rubric),
        *notes,
        el("p", _timings(result), class_="timings"),
        class_="variant",
    )


def _picture(candidate: Candidate, *, best: bool) -> Markup:
    seed, score = f"seed {candidate.image.seed}", candidate.score
    told = None if score is None else el("span", f" · {score:.0%}", class_="judged-text")
    return picture(candidate.image, join([seed, told]), best=best)


def _timings(result: LoopResult) -> str:
    order = ("rewrite", "generate", "judge", "total")
    parts = [f"{name} {result.timings[name]:.1f} s" for name in order if name in result.timings]
    return " · ".join(parts)
