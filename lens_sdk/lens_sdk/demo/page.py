"""The demo's page: one HTML file with everything inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from lens_reasoner import Candidate, LoopResult, Refused, Rubric, Verdict
from lens_sdk.demo.cases import DemoCase

_ANSWERS = {
    "yes": ("yes", "✓", "satisfied"),
    "no": ("no", "✗", "not satisfied"),
    "cannot_tell": ("unsure", "?", "cannot tell"),
}


def render_page(cases: Sequence[DemoCase], *, model: str, command: str) -> str:
    """The page as HTML, with pictures as data URIs and nothing loaded from elsewhere.

    Args:
        cases: What to show.
        model: Name of the model that drew.
        command: The command line that makes this page again.
    """
    assets = files("lens_sdk.demo")
    page = Template(assets.joinpath("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        style=assets.joinpath("page.css").read_text(encoding="utf-8"),
        model=escape(model),
        command=escape(command),
        summary=_summary(cases),
        cases="\n".join(_case(number, case) for number, case in enumerate(cases, start=1)),
    )


def _summary(cases: Sequence[DemoCase]) -> str:
    before, after = _tally(case.before for case in cases), _tally(case.after for case in cases)
    pictures = [c for case in cases for c in (*case.before.candidates, *case.after.candidates)]
    drawing = sum(c.image.timings.get("generate", 0.0) for c in pictures)
    rewriting = [case.after.timings["rewrite"] for case in cases if "rewrite" in case.after.timings]
    tiles = [
        _tile(str(len(cases)), "requests"),
        _tile(str(len(pictures)), "pictures"),
        _tile(f"{drawing / max(1, len(pictures)):.1f} s", "to draw a picture"),
        _tile(f"{sum(rewriting) / max(1, len(rewriting)):.1f} s", "to rewrite a request"),
    ]
    bars = _bar("As asked", before) + _bar("Rewritten", after)
    return (
        f'<div class="bars" role="group" aria-label="Criteria satisfied by the best pictures">'
        f"<h2>Criteria satisfied by the best picture of each request</h2>{bars}</div>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _tally(results: Iterable[LoopResult]) -> tuple[int, int]:
    """Criteria satisfied and criteria asked, by each run's best picture."""
    verdicts = [r.best.verdict for r in results if r.best is not None and r.best.verdict]
    lines = [line for verdict in verdicts for line in verdict.verdicts]
    return sum(line.answer == "yes" for line in lines), len(lines)


def _bar(name: str, tally: tuple[int, int]) -> str:
    satisfied, asked = tally
    share = 100 * satisfied / asked if asked else 0
    return (
        f'<div class="bar"><span class="bar-name">{name}</span>'
        f'<span class="track"><span class="fill" style="width:{share:.1f}%"></span></span>'
        f'<span class="bar-value">{satisfied} of {asked}</span></div>'
    )


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><strong>{value}</strong><span>{label}</span></div>'


def _case(number: int, case: DemoCase) -> str:
    variants = _variant("Drawn as it is", case.after)
    if case.rewritten:
        variants = _variant("As asked", case.before) + _variant("Rewritten", case.after)
    return (
        f'<article class="case" id="request-{number}">'
        f'<header><a class="number" href="#request-{number}">{number}</a>'
        f"<div><h2>{escape(case.text)}</h2>{_prompt(case)}</div></header>"
        f'<div class="variants">{variants}</div></article>'
    )


def _prompt(case: DemoCase) -> str:
    rewrite = case.after.rewrite
    if rewrite is None:
        return '<p class="note">Nothing was rewritten.</p>'
    if isinstance(rewrite, Refused):
        return f'<p class="note">Refused: {escape(rewrite.reason)}</p>'
    if not case.rewritten:
        why = rewrite.model.removeprefix("none: ")
        return f'<p class="note">Not rewritten: {escape(why)}.</p>'
    by = f"Rewritten by {rewrite.model} in {rewrite.seconds:.1f} s"
    return f"<blockquote>{escape(rewrite.prompt)}<footer>{escape(by)}</footer></blockquote>"


def _variant(title: str, result: LoopResult) -> str:
    best = result.best
    score = _score_badge(best.score) if best is not None else ""
    pictures = "".join(
        _picture(candidate, best=index == result.best_index)
        for index, candidate in enumerate(result.candidates)
    )
    verdict = _verdict(best.verdict, result.rubric) if best is not None and best.verdict else ""
    notes = "".join(
        f'<p class="note">{escape(failure.message)} {escape(failure.hint)}</p>'
        for failure in result.failures
    )
    return (
        f'<section class="variant"><h3>{title}{score}</h3>'
        f'<div class="pictures">{pictures}</div>{verdict}{notes}'
        f'<p class="timings">{escape(_timings(result))}</p></section>'
    )


def _picture(candidate: Candidate, *, best: bool) -> str:
    image = candidate.image
    data = base64.b64encode(image.png).decode("ascii")
    settings = image.settings
    score = "" if candidate.score is None else f" · {candidate.score:.0%}"
    kind = "picture best" if best else "picture"
    return (
        f'<figure class="{kind}"><img src="data:image/png;base64,{data}" '
        f'width="{settings.width}" height="{settings.height}" alt="{escape(image.prompt)}">'
        f"<figcaption>seed {image.seed}{score}</figcaption></figure>"
    )


def _verdict(verdict: Verdict, rubric: Rubric | None) -> str:
    questions = {c.name: c.question for c in rubric.criteria} if rubric else {}
    lines = "".join(
        _line(line.answer, questions.get(line.criterion, line.criterion), line.evidence)
        for line in verdict.verdicts
    )
    return f'<ul class="verdict">{lines}</ul>'


def _line(answer: str, question: str, evidence: str) -> str:
    kind, mark, meaning = _ANSWERS[answer]
    return (
        f'<li class="{kind}"><span class="mark" role="img" aria-label="{meaning}">{mark}</span>'
        f"<span><b>{escape(question)}</b> <small>{escape(evidence)}</small></span></li>"
    )


def _score_badge(score: float | None) -> str:
    if score is None:
        return '<span class="score none">not judged</span>'
    kind = "full" if score == 1 else "part"
    return f'<span class="score {kind}">{score:.0%}</span>'


def _timings(result: LoopResult) -> str:
    order = ("rewrite", "generate", "judge", "total")
    parts = [f"{name} {result.timings[name]:.1f} s" for name in order if name in result.timings]
    return " · ".join(parts)
