"""The page: sections put into one HTML file with everything inside."""

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
    """One part of the page: where to jump to, its heading, and what it is good for."""

    name: str
    short: str
    title: str
    lead: str
    body: Markup | None


_FINISHED: tuple[tuple[str, str, str, str, Callable[[Material], Markup | None]], ...] = (
    ("prompt", "Prompt", "The prompt",
     "What was changed, section by section, and what became of the reason for it.", prompt_diff),
    ("pictures", "Pictures", "Before and after",
     "The same request and image seed under the seed prompt and the optimised one.", pictures),
    ("criteria", "Criteria", "By kind of criterion",
     "Pass rates on the test split: hollow before, filled after.", criteria),
    ("generators", "Generators", "By generator",
     "What each prompt is worth on each generator.", matrix),
    ("curve", "Gain", "How the gain grew",
     "Gain over the seed prompt in points, with 95 % intervals.", curve),
    ("gate", "Gate", "At the gate",
     "What was put to the proof, and how it ended.", challenges),
    ("lineage", "Lineage", "Lineage",
     "Every candidate, where it came from and what became of it.", lineage),
    ("failures", "Failures", "What failed",
     "Failures on the search split by mode, as the rounds went on.", failures),
    ("variance", "Spread", "Where the spread comes from",
     "Shares of the variance of one score.", variance),
    ("cost", "Cost", "Cost", "What each role consumed.", costs),
    ("guards", "Guards", "Guards", "What no candidate may do.", guards),
    ("about", "Sources", "What vouches for it", "", provenance),
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
    """The page of a run that is not finished.

    Args:
        study: What it is about.
        progress: What its journal holds.
        folder: Its images.
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
            "Pictures",
            "Latest pictures",
            "Under whichever prompt was being tried.",
            unfinished.latest(progress, folder),
        ),
        Section("about", "Sources", "The study", "", unfinished.about(study)),
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
    """A hash that allows exactly this text in the page."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
