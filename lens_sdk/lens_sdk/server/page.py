"""The page at `/`, one HTML file with everything inside, and the one for addresses too old."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from lens_sdk.pages.document import asset, source
from lens_sdk.shell_words import shell_word


@cache
def page(runs: str, studies: str) -> tuple[str, str]:
    """The page, and a content security policy that allows nothing but what is in it.

    Args:
        runs: The folder of recorded runs, as the page tells it.
        studies: The folder of prompt studies, as the page tells it.
    """
    folder = files("lens_sdk.server").joinpath("web")
    style, asking, shelves, script, text = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "asking.js", "shelves.js", "page.js", "page.html")
    )
    style = asset("palette.css") + style + asset("labels.css")
    script = asset("labels.js") + asking + shelves + script
    policy = (
        f"default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
        f"style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    study = f"{studies}/NAME"
    told = {"runs": escape(shell_word(runs)), "study": escape(shell_word(study))}
    return Template(text).substitute(style=style, script=script, **told), policy


@cache
def error_page(message: str) -> tuple[str, str]:
    """What a browser shows for an address that leads nowhere, and its content security policy.

    Args:
        message: Why it does not.
    """
    style = asset("palette.css") + asset("base.css")
    policy = f"default-src 'none'; img-src data:; style-src {source(style)}; frame-ancestors 'none'"
    template = files("lens_sdk.server").joinpath("web", "error.html").read_text(encoding="utf-8")
    return Template(template).substitute(style=style, message=escape(message)), policy
