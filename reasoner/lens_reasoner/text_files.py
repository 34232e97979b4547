"""Reading text files written by people."""

from __future__ import annotations

import codecs
from pathlib import Path

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path) -> str:
    """Read a file in UTF-8, or in UTF-16 as Windows PowerShell's `>` writes it.

    A byte order mark is removed.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It has another encoding.
        UnicodeDecodeError: If it is in another encoding.
    """
    path = Path(path)
    with path.open("rb") as file:
        marked = file.read(2) in _UTF16_MARKS
    return path.read_text(encoding="utf-16" if marked else "utf-8-sig")
