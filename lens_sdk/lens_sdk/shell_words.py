"""Commands that are shown for people to give."""

from __future__ import annotations

import shlex
import subprocess
import sys


def shell_word(text: str) -> str:
    """A word of a command line, quoted where it has to be.

    Windows' two shells agree on double quotes alone, and its paths need none for their backslashes.
    """
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)
