"""The markdown form of a system prompt.

A header between lines of three dashes has name and version. Every "## " heading starts a section.
Protected sections have a comment that is invisible when the file is rendered:

    ---
    name: general
    version: 2
    ---

    ## Role <!-- protected -->

    You write prompts for a text-to-image model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PROTECTED_MARK = "<!-- protected -->"

Section = tuple[str, str, bool]
"""Heading, text, and whether it is protected."""

_HEAD = re.compile(r"\A---\nname: ?(?P<name>.*)\nversion: ?(?P<version>.*)\n---\n")
_HEADING = re.compile(r"^## (?P<heading>.*)$", re.MULTILINE)


def plain_lines(text: str) -> str:
    """The text with line feeds as its only line endings."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write(name: str, version: str, sections: Iterable[Section]) -> str:
    """The text of the markdown file."""
    parts = [f"---\nname: {name}\nversion: {version}\n---\n"]
    for heading, text, protected in sections:
        mark = f" {PROTECTED_MARK}" if protected else ""
        parts.append(f"## {heading}{mark}\n\n{text}\n")
    return "\n".join(parts)


def read(text: str) -> tuple[str, str, list[Section]]:
    """Name, version and sections of a markdown file's text.

    Raises:
        ValueError: The header is missing, or there is text before the first section.
    """
    text = plain_lines(text).removeprefix("\ufeff")
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("it does not begin with '---', 'name:', 'version:' and '---' lines")
    headings = list(_HEADING.finditer(text, head.end()))
    starts = [heading.start() for heading in headings] + [len(text)]
    before = text[head.end() : starts[0]].strip()
    if before:
        raise ValueError(f"{before[:60]!r} comes before the first '## ' heading")
    sections = []
    for found, end in zip(headings, starts[1:], strict=True):
        heading, protected = found["heading"].strip(), False
        if heading.endswith(PROTECTED_MARK):
            heading, protected = heading.removesuffix(PROTECTED_MARK).strip(), True
        sections.append((heading, text[found.end() : end].strip(), protected))
    return head["name"].strip(), head["version"].strip(), sections
