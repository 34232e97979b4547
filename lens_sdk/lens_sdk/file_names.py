"""Names of files after what is in them."""

from __future__ import annotations

import re


def name_of(text: str) -> str:
    """A request's first words as the beginning of a file name: lower case Latin and digits."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:48].rstrip("-") or "picture"
