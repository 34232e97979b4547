"""The page of an unfinished run: what it is about, and its progress."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lens_prompt_opt.budget import STAGES, Budget, Ledger, SpendRow
from lens_prompt_opt.edits import SectionEdit
from lens_prompt_opt.proposer import Proposals
from lens_prompt_opt.report import wording
from lens_prompt_opt.report.costs import spending_table
from lens_prompt_opt.report.criteria import hypothesis
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.thumbnails import Thumbnails
from lens_prompt_opt.study_description import StudyDescription

_SHOWN = 24
_MOST_BYTES = 3_000_000


@dataclass
class Progress:
    """The contents of a run's journal so far.

    Attributes:
        ledger: Calls, images, dollars and seconds by stage, and the time of the finished blocks.
        pictures: Prompt and file name of every image, oldest first.
        proposals: The proposer's suggestions, oldest first.
        scores: Scores of the judged images, oldest first.
        failures: Reasons of failed calls, with counts.
    """

    ledger: Ledger = field(default_factory=lambda: Ledger(Budget(calls=1)))
    pictures: list[tuple[str, str]] = field(default_factory=list)
    proposals: list[tuple[SectionEdit, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path) -> Progress:
        """Read a journal, even while a run writes it; an incomplete line is skipped."""
        progress = cls()
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                progress._add(entry["key"].partition(":")[0], entry["record"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
        return progress

    def _add(self, stage: str, record: Mapping[str, Any]) -> None:
        if stage == "block":
            self.ledger.wall_seconds += record["seconds"]
            return
        if stage == "propose" and "value" in record:
            self.proposals += Proposals.model_validate(record["value"]).edits
        if stage == "generate" and "picture" in record:
            self.pictures.append((record["image"]["prompt"], record["picture"]))
        if stage == "judge" and record.get("score") is not None:
            self.scores.append(record["score"])
        if "failure" in record:
            self.failures[record["failure"]] += 1
        paid = "propose" if stage == "cluster" else stage
        if paid in STAGES:
            usd, images = record["usage"].get("usd"), int("picture" in record)
            self.ledger.add_plain(paid, usd, record["seconds"], images=images)

    def rows(self) -> tuple[SpendRow, ...]:
        """Spending by stage, and the total."""
        return self.ledger.table()


def headline(progress: Progress) -> Markup:
    """The top of the page."""
    total = progress.rows()[-1]
    mean = f"{wording.points(fmean(progress.scores), sign=False)} %" if progress.scores else "—"
    tiles = [
        (f"{total.images:,}", "images so far"),
        (wording.amount(total.usd), "known cost so far"),
        (wording.duration(total.seconds), "in finished blocks"),
        (f"{len(progress.proposals):,}", "edits proposed"),
        (mean, "criteria met, over all prompts"),
    ]
    lead = el(
        "p",
        "There is no claim before the end. To resume, start the same study with the same "
        "directory; finished calls are not repeated.",
        class_="lead",
    )
    return join(
        [
            el(
                "div",
                el("p", "This run is not finished.", class_="plain-gain"),
                lead,
                class_="claim none",
            ),
            el(
                "dl",
                *(el("div", el("dt", label), el("dd", value)) for value, label in tiles),
                class_="tiles",
            ),
        ]
    )


def about(study: StudyDescription) -> Markup:
    """The section about the study."""
    facts = {
        "Strategy": study.strategy.name,
        "Seed of the study": "" if study.random_seed is None else study.random_seed,
        **{f"Part: {stage}": name for stage, name in study.models.items()},
    }
    sections = [
        el("div", el("h3", part.name), el("p", part.text, class_="prompt-text"))
        for part in study.seed_prompt.sections
    ]
    facts_list = [
        el("div", el("dt", name), el("dd", el("code", str(value)))) for name, value in facts.items()
    ]
    seed = el("details", el("summary", "The seed prompt"), *sections)
    return join([el("dl", *facts_list, class_="facts"), seed])


def proposals(progress: Progress) -> Markup:
    """The section about proposed edits."""
    if not progress.proposals:
        return el("p", "Nothing has been proposed yet.", class_="soft")
    blocks = [
        el(
            "div",
            el("h3", edit.section, " ", el("span", edit.kind, class_="chip blue")),
            el("p", edit.text, class_="prompt-text") if edit.text else None,
            hypothesis(edit),
            class_="section",
        )
        for edits in reversed(progress.proposals[-_SHOWN:])
        for edit in edits
    ]
    return join(blocks)


def latest(progress: Progress, folder: Path) -> Markup:
    """The latest images."""
    shown: Sequence[tuple[str, str]] = progress.pictures[-_SHOWN:][::-1]
    if not shown:
        return el("p", "There are no images yet.", class_="soft")
    store = Thumbnails(folder, room=_MOST_BYTES)
    figures = []
    for prompt, name in shown:
        uri = store.uri(name)
        image = (
            el("img", src=uri, alt=prompt, decoding="async")
            if uri
            else el("div", "not kept", class_="missing")
        )
        figures.append(el("figure", image, el("figcaption", prompt)))
    return el("div", *figures, class_="latest")


def spending(progress: Progress, study: StudyDescription) -> Markup:
    """The section about cost so far, with failed calls."""
    failed = [
        el("li", el("b", f"{count:,} × "), reason)
        for reason, count in progress.failures.most_common(8)
    ]
    return join(
        [spending_table(progress.rows(), study.models), el("ul", *failed) if failed else None]
    )
