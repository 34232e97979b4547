"""HTML that is escaped by construction: text is text unless it was built here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"img", "br", "hr", "meta", "line", "rect", "circle", "path", "col"})


class Markup(str):
    """Text that is HTML already; every other string is escaped where it is put into a page."""

    __slots__ = ()


Child = str | Markup | None
"""What an element can hold; None is nothing."""

Attribute = str | int | float | bool | None
"""None and False leave an attribute out; True writes its bare name."""


def el(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        tag: Its name.
        children: Markup as it is, other strings escaped.
        attributes: A trailing underscore is dropped and others become hyphens, as in `class_` and
            `aria_label`.
    """
    told = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{told}/>")
    return Markup(f"<{tag}{told}>{join(children)}</{tag}>")


def join(children: Iterable[Child], separator: Child = "") -> Markup:
    """Children one after the other."""
    return Markup(_safe(separator).join(_safe(child) for child in children if child is not None))


def table(
    heads: Iterable[str],
    rows: Iterable[Markup],
    foot: Iterable[Markup] = (),
    **attributes: Attribute,
) -> Markup:
    """A table.

    Args:
        heads: Names of its columns.
        rows: Its rows.
        foot: Rows below a line.
        attributes: As of `el`.
    """
    columns = el("tr", *(el("th", name, scope="col") for name in heads))
    below = list(foot)
    return el(
        "table",
        el("thead", columns),
        el("tbody", *rows),
        el("tfoot", *below) if below else None,
        **attributes,
    )


def _safe(child: Child) -> str:
    if child is None:
        return ""
    return str(child) if isinstance(child, Markup) else escape(str(child), quote=False)


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
