"""`lens doctor`: checks whether the settings will work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lens_sdk.cli.console import (
    FAILED,
    GeneratorOption,
    JsonOption,
    JudgeOption,
    ReasonerOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.options import ServerOption

if TYPE_CHECKING:
    from lens_sdk.doctor import Check

_MARKS = {
    "ok": ("✓", "green"),
    "note": ("·", "dim"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}


@reports_errors
def doctor(
    model: GeneratorOption = None,
    reasoner: ReasonerOption = None,
    judge: JudgeOption = None,
    base_url: ServerOption = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Also check key and models with the provider, free of charge."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check versions, settings, keys, models, GPU, memory and disk, free of charge.

    Exits with code 1 if there is an error.

    Example: lens doctor --model lens-turbo
    """
    from lens_reasoner import ReasonerError
    from lens_sdk.doctor import examine
    from lens_sdk.settings import Settings

    try:
        settings = Settings.load(model=model, reasoner=reasoner, judge=judge, base_url=base_url)
    except ReasonerError:
        settings = None
    with err.status("Looking around"):
        checks = examine(settings, online=online)
    failed = any(check.status == "error" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(c) for c in checks]})
    else:
        out.print(_table(checks))
    if failed:
        raise typer.Exit(FAILED)


def _table(checks: list[Check]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark, colour = _MARKS[check.status]
        detail = Text(check.detail, style="dim" if check.status == "note" else "")
        table.add_row(Text(mark, style=colour), Text(check.name), detail)
        if check.hint:
            table.add_row("", "", Text(check.hint, style="italic dim"))
    return table
