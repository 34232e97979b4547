"""File names made from their content."""

from __future__ import annotations

import re


def name_of(text: str) -> str:
    """Return a request's first words for a file name: lower-case Latin letters and digits."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:48].rstrip("-") or "picture"
