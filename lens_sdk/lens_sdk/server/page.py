"""The page at `/`, a self-contained HTML file, and the error page for expired URLs."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from lens_sdk.pages.document import asset, source
from lens_sdk.shell_words import shell_word


@cache
def page(runs: str, studies: str) -> tuple[str, str]:
    """The page, and a content security policy that allows only the page's own content.

    Args:
        runs: The folder of recorded runs, as shown on the page.
        studies: The folder of prompt studies, as shown on the page.
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
    """The page for a URL that does not work, and its content security policy.

    Args:
        message: Why the URL does not work.
    """
    style = asset("palette.css") + asset("base.css")
    policy = f"default-src 'none'; img-src data:; style-src {source(style)}; frame-ancestors 'none'"
    template = files("lens_sdk.server").joinpath("web", "error.html").read_text(encoding="utf-8")
    return Template(template).substitute(style=style, message=escape(message)), policy
