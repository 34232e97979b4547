"""A page as a single HTML file."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template

from lens_prompt_opt.report.markup import Markup
from lens_sdk.shell_words import shell_word

_STYLES = ("palette.css", "base.css", "labels.css")
_SCRIPTS = ("labels.js", "static.js")


def document(
    title: str, *, header: Markup, main: Markup, footer: Markup, style: str = "", runs: str
) -> str:
    """Build a self-contained page with images and verdicts.

    Users can label the verdicts; without scripts, the page shows the same content.

    Args:
        title: Title of the page.
        header: Content of the header.
        main: The images and verdicts.
        footer: Content of the footer.
        style: CSS rules in addition to those of all pages.
        runs: Location of the runs whose verdicts are shown, as `lens calibrate --runs` takes it.
    """
    style = "".join([*map(asset, _STYLES), style])
    script = "".join(map(asset, _SCRIPTS))
    policy = (
        f"default-src 'none'; img-src data:; style-src {source(style)}; "
        f"style-src-attr 'unsafe-inline'; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(asset("page.html")).substitute(
        policy=escape(policy),
        title=escape(title),
        style=style,
        header=header,
        main=main,
        footer=footer,
        then=escape(f"lens calibrate labels.json --runs {shell_word(runs)}"),
        script=script,
    )


def asset(name: str) -> str:
    """Text of a file that pages are built from."""
    return files("lens_sdk.pages").joinpath(name).read_text(encoding="utf-8")


def source(text: str) -> str:
    """The content security policy source that allows exactly this style or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
