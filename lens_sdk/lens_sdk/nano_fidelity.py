"""Offline fidelity check for nano prompts: looks criteria up in the facts a caption states."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lens_core.nano.facts import Include
from lens_core.nano.geometry import OPPOSITE
from lens_core.nano.requests import parse_request
from lens_reasoner import (
    FidelityFinding,
    FidelityReport,
    ImageRequest,
    Rubric,
    Usage,
)
from lens_reasoner.revision import Statement
from lens_sdk.models import package_version
from lens_sdk.nano_caption import CaptionFacts, read_caption
from lens_sdk.nano_faithful import can_hold

CHECKER = "nano-caption-reader"


class NanoFidelityChecker:
    """Looks up the criteria of `NanoRubricWriter` in a caption.

    The report leaves out criteria that are not about the nano world, and requests for one class in
    several colours, which the caption parser cannot distinguish. A prompt that contains the request
    verbatim states everything the request asks for.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies the caption parser and its version."""
        return f"{CHECKER} {package_version()}"

    async def check(self, request: ImageRequest, prompt: str, rubric: Rubric) -> FidelityReport:
        """See `FidelityChecker.check`."""
        started = time.perf_counter()
        own_words = request.text.strip() in prompt
        findings = []
        for criterion in rubric.criteria:
            known = statements(criterion.expected, prompt).get(criterion.name)
            status: Statement | None = "stated" if own_words and criterion.source else known
            if status is not None:
                findings.append(FidelityFinding(criterion=criterion.name, status=status))
        return FidelityReport(
            prompt=prompt,
            findings=tuple(findings),
            checker=CHECKER,
            usage=Usage.zero(),
            seconds=time.perf_counter() - started,
        )


def statements(facts: Mapping[str, Any], caption: str) -> dict[str, Statement]:
    """Return what a caption states about each check of a request, by names of `atomic_checks`.

    Args:
        facts: "include" and, if known, "exclude" and "background" of the request.
        caption: The prompt.
    """
    include: list[Include] = list(facts.get("include") or ())
    if len({item["class"] for item in include}) < len(include):
        return {}
    bounded = {item["class"] for item in facts.get("exclude") or ()}
    read = read_caption(caption)
    found: dict[str, Statement] = {}
    for item in include:
        cls, group = item["class"], read.groups.get(item["class"])
        found[f"object:{cls}"] = "missing" if group is None else "stated"
        enough = group is not None and (
            group.count == item["count"] or (cls not in bounded and group.count > item["count"])
        )
        found[f"count:{cls}"] = _said(group is not None, enough)
        if "color" in item:
            color = group.color if group is not None else ""
            found[f"color:{item['color']} {cls}"] = _said(bool(color), color == item["color"])
        if "position" in item:
            relation, other = item["position"][0], include[item["position"][1]]
            name = f"position:{cls} {relation} {other['class']}"
            found[name] = _position(read, item, relation, other)
    if wish := facts.get("background"):
        said = (parse_request(caption) or {}).get("background")
        found["background"] = _said(said is not None, said == wish)
    return found


def _said(said: bool, right: bool) -> Statement:
    return "missing" if not said else "stated" if right else "contradicted"


def _position(read: CaptionFacts, item: Include, relation: str, other: Include) -> Statement:
    first, second = item["class"], other["class"]
    groups = [read.groups.get(cls) for cls in (first, second)]
    if all(group is not None and group.regions for group in groups):
        return _said(True, can_hold(read, item, relation, other))
    told = {name for a, name, b in read.relations if (a, b) == (first, second)}
    told |= {OPPOSITE[name] for a, name, b in read.relations if (a, b) == (second, first)}
    return _said(bool(told), relation in told)
