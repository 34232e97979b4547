"""HTML that is escaped by construction: a string is text unless it is `Markup`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"img", "br", "hr", "meta", "line", "rect", "circle", "path", "col"})


class Markup(str):
    """HTML; all other strings are escaped when they are put into a page."""

    __slots__ = ()


Child = str | Markup | None
"""A child of an element; None is skipped."""

Attribute = str | int | float | bool | None
"""None and False leave an attribute out; True writes its bare name."""


def el(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """Build an element.

    Args:
        tag: Its name.
        children: `Markup` is inserted as it is; other strings are escaped.
        attributes: Underscores become hyphens, except a trailing one, which is dropped: `class_`,
            `aria_label`.
    """
    rendered = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{rendered}/>")
    return Markup(f"<{tag}{rendered}>{join(children)}</{tag}>")


def join(children: Iterable[Child], separator: Child = "") -> Markup:
    """Join children."""
    return Markup(_safe(separator).join(_safe(child) for child in children if child is not None))


def table(
    heads: Iterable[str],
    rows: Iterable[Markup],
    foot: Iterable[Markup] = (),
    **attributes: Attribute,
) -> Markup:
    """Build a table.

    Args:
        heads: Column names.
        rows: Rows of the body.
        foot: Rows of the footer.
        attributes: As in `el`.
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
