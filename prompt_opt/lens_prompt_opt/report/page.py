"""The page: all sections in one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from lens_prompt_opt.report import unfinished
from lens_prompt_opt.report.challenges import challenges
from lens_prompt_opt.report.claim import headline
from lens_prompt_opt.report.costs import costs
from lens_prompt_opt.report.criteria import criteria
from lens_prompt_opt.report.curve import curve
from lens_prompt_opt.report.diff import prompt_diff
from lens_prompt_opt.report.failures import failures
from lens_prompt_opt.report.lineage import lineage
from lens_prompt_opt.report.markup import Markup, el, join
from lens_prompt_opt.report.material import Material
from lens_prompt_opt.report.matrix import matrix
from lens_prompt_opt.report.pictures import pictures
from lens_prompt_opt.report.spread import guards, provenance, variance
from lens_prompt_opt.study_description import StudyDescription


class Section(NamedTuple):
    """One section of the page: anchor, link text, heading, introduction and body."""

    name: str
    short: str
    title: str
    lead: str
    body: Markup | None


_FINISHED: tuple[tuple[str, str, str, str, Callable[[Material], Markup | None]], ...] = (
    ("prompt", "Prompt", "The prompt",
     "What was changed, section by section, with the result of each reason.", prompt_diff),
    ("pictures", "Images", "Before and after",
     "The same request and image seed with the seed prompt and with the optimised one.", pictures),
    ("criteria", "Criteria", "By kind of criterion",
     "Pass rates on the test split: before (hollow) and after (filled).", criteria),
    ("generators", "Generators", "By generator",
     "The score of each prompt on each generator.", matrix),
    ("curve", "Gain", "Gain over time",
     "Gain over the seed prompt in percentage points, with 95 % intervals.", curve),
    ("gate", "Gate", "Challenges",
     "Every challenge to the current prompt, with its evidence and outcome.", challenges),
    ("lineage", "Lineage", "Lineage",
     "Every candidate, its origin and its fate.", lineage),
    ("failures", "Failures", "Failures",
     "Failure modes on the search split, by round.", failures),
    ("variance", "Variance", "Sources of variance",
     "Shares of the variance of a single score.", variance),
    ("cost", "Cost", "Cost", "What each role consumed.", costs),
    ("guards", "Guards", "Guards", "Rules that no candidate may break.", guards),
    ("about", "Provenance", "Provenance", "", provenance),
)  # fmt: skip
"""The sections of a finished study: name, link, heading, lead, and what makes the body."""


def finished_page(material: Material) -> str:
    """The page of a finished study."""
    title = f"Prompt study of “{material.result.best.system_prompt.name}”"
    sections = [
        Section(name, short, heading, lead, body(material))
        for name, short, heading, lead, body in _FINISHED
    ]
    return _page(title, headline(material), sections)


def unfinished_page(study: StudyDescription, progress: unfinished.Progress, folder: Path) -> str:
    """The page of an unfinished run.

    Args:
        study: What it is about.
        progress: The contents of its journal.
        folder: Folder of its images.
    """
    sections = [
        Section("cost", "Cost", "Cost so far", "", unfinished.spending(progress, study)),
        Section(
            "edits",
            "Edits",
            "Edits proposed",
            "The latest first.",
            unfinished.proposals(progress),
        ),
        Section(
            "pictures",
            "Images",
            "Latest images",
            "From whichever prompt was being tried.",
            unfinished.latest(progress, folder),
        ),
        Section("about", "Provenance", "The study", "", unfinished.about(study)),
    ]
    return _page(
        f"Prompt study of “{study.seed_prompt.name}”", unfinished.headline(progress), sections
    )


def _page(title: str, head: Markup, sections: Sequence[Section]) -> str:
    folder = files("lens_prompt_opt.report").joinpath("web")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    template = Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
    shown = [section for section in sections if section.body is not None]
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; "
        f"script-src {_source(script)}; base-uri 'none'; form-action 'none'"
    )
    return template.substitute(
        policy=policy,
        title=join([title]),
        style=style,
        script=script,
        links=join(el("a", s.short, href=f"#{s.name}") for s in shown),
        headline=head,
        sections=join((_section(s) for s in shown), Markup("\n")),
    )


def _section(section: Section) -> Markup:
    return el(
        "section",
        el("h2", section.title),
        el("p", section.lead, class_="about") if section.lead else None,
        section.body,
        id=section.name,
    )


def _source(text: str) -> str:
    """A CSP hash that allows exactly this text in the page."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
