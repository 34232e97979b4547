"""Recorded runs on one page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lens_prompt_opt.report.markup import Markup, el, join
from lens_reasoner import Candidate, LoopResult, RunRecord
from lens_sdk.amounts import cost
from lens_sdk.pages.document import asset, document
from lens_sdk.pages.verdicts import picture, score_badge, verdict_list


def render_runs(records: Iterable[RunRecord], *, runs: str) -> str:
    """Render every image of the given runs, with its verdict, as HTML.

    Args:
        records: The runs, read one at a time to save memory. Runs with only a header are left out.
        runs: Location of the runs, as `lens calibrate --runs` takes it.

    Raises:
        RunRecordError: A run cannot be read.
    """
    begun = (record for record in records if record.events)
    cases = [_case(n, record) for n, record in enumerate(begun, start=1)]
    title = "A recorded run" if len(cases) == 1 else f"{len(cases)} recorded runs"
    return document(
        f"Lens SDK: {title.lower()}",
        header=el("header", el("p", "Lens SDK", class_="brand"), el("h1", title)),
        main=el("main", *cases),
        footer=el("footer", "From ", el("code", runs), class_="bottom"),
        style=asset("runs.css"),
        runs=runs,
    )


def _case(number: int, record: RunRecord) -> Markup:
    result = record.result()
    name = f"run-{number}"
    head = el(
        "div",
        el("h2", result.request.text),
        el("p", _facts(record, result), class_="note"),
        *_prompts(result),
        *(el("p", note, class_="note") for note in result.notes),
    )
    return el(
        "article",
        el(
            "header",
            el("a", str(number), class_="number", href=f"#{name}", aria_label=f"Run {number}"),
            head,
        ),
        el("div", *_candidates(result), class_="candidates"),
        class_="case",
        id=name,
    )


def _facts(record: RunRecord, result: LoopResult) -> str:
    began = datetime.fromisoformat(record.header.created)
    parts = [
        record.folder.name,
        f"{began:%d %b %Y, %H:%M} UTC",
        result.stop_reason.replace("_", " ") if record.finished else "not finished",
        f"{result.timings.get('total', 0.0):.1f} s",
        cost(result.usage.usd),
    ]
    return " · ".join(filter(None, parts))


def _prompts(result: LoopResult) -> list[Markup]:
    if result.refused is not None:
        return [el("p", f"Refused: {result.refused.reason}", class_="note")]
    several = len(result.prompts) > 1
    return [
        el(
            "blockquote",
            prompt.prompt,
            el("footer", f"Prompt {n}, by {prompt.model}" if several else f"By {prompt.model}"),
        )
        for n, prompt in enumerate(result.prompts, start=1)
        if prompt.prompt != result.request.text
    ]


def _candidates(result: LoopResult) -> list[Markup]:
    choice = len(result.candidates) > 1
    return [
        _candidate(
            candidate,
            result,
            best=choice and index == result.best_index and candidate.score is not None,
        )
        for index, candidate in enumerate(result.candidates)
    ]


def _candidate(candidate: Candidate, result: LoopResult, *, best: bool) -> Markup:
    parts = [
        f"Round {candidate.round + 1}" if result.candidates[-1].round else "",
        f"prompt {candidate.prompt_version + 1}" if len(result.prompts) > 1 else "",
        "" if candidate.image.seed is None else f"seed {candidate.image.seed}",
    ]
    words = " · ".join(filter(None, parts))
    caption = join(
        [
            el("span", words[:1].upper() + words[1:]),
            score_badge(candidate.score),
            el("span", "best", class_="chip judged-text") if best else None,
        ]
    )
    failure = candidate.failure
    return el(
        "section",
        picture(candidate.image, caption, best=best),
        None if candidate.verdict is None else verdict_list(candidate.verdict, result.rubric),
        None if failure is None else el("p", str(failure), class_="note"),
        class_="candidate",
    )
