"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        status: "note" is for what is missing and not needed as things are set.
        detail: What was found.
        hint: What to do about it; empty where nothing needs to be done.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""
