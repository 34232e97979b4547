"""Text files that people write."""

from __future__ import annotations

import codecs
from pathlib import Path

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 as `>` writes it in Windows' own PowerShell.

    A mark at its beginning, which Windows' programs like to write, is no part of the text.

    Raises:
        OSError: If it cannot be read.
        UnicodeDecodeError: If it is in another encoding.
    """
    path = Path(path)
    with path.open("rb") as file:
        marked = file.read(2) in _UTF16_MARKS
    return path.read_text(encoding="utf-16" if marked else "utf-8-sig")
