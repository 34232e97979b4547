"""The page at `/`: one HTML file with everything inside."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template

from lens_sdk.pages.document import asset, source


@cache
def page() -> tuple[str, str]:
    """The page, and a content security policy that allows nothing but what is in it."""
    folder = files("lens_sdk.server").joinpath("web")
    style, script, text = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "page.html")
    )
    style = asset("palette.css") + style + asset("labels.css")
    script = asset("labels.js") + script
    policy = (
        f"default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
        f"style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Template(text).substitute(style=style, script=script), policy
