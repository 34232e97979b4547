"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: "note" means missing, but not needed with these settings.
        detail: What was found.
        hint: What to do about it; empty if nothing.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""
