"""Formats commands that are shown to users."""

from __future__ import annotations

import shlex
import subprocess
import sys


def shell_word(text: str) -> str:
    """Return a word for a command line, quoted if necessary.

    Windows' two shells agree only on double quotes, and backslashes in paths need no quotes there.
    """
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)
