"""The page at `/`: one HTML file with everything inside."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from string import Template


@cache
def page() -> tuple[str, str]:
    """The page, and a content security policy that allows nothing but what is in it."""
    folder = files("lens_sdk.server").joinpath("web")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    text = Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
        f"style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.substitute(style=style, script=script), policy


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
