"""`lens inspect`: describes a weight file without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from lens_sdk.cli.console import FAILED, JsonOption, out, print_json, reports_errors
from lens_sdk.models import require_packages

if TYPE_CHECKING:
    from lens_core.checkpoints.inspect import CheckpointInfo

_SHOWN = 10


@reports_errors
def inspect(
    path: Annotated[Path, typer.Argument(help="A safetensors or GGUF file, or a folder.")],
    as_json: JsonOption = False,
) -> None:
    """Describe a weight file without loading it: part, layout, precision, missing tensors.

    Exits with code 1 if something is missing.

    Example: lens inspect model/transformer
    """
    require_packages()
    from lens_core.checkpoints.inspect import inspect_checkpoint

    found = inspect_checkpoint(path)
    if as_json:
        print_json([describe(info) for info in found])
    else:
        for info in found:
            show(info)
    if not all(info.is_complete for info in found):
        raise typer.Exit(FAILED)


def describe(info: CheckpointInfo) -> dict[str, Any]:
    """Return the findings for JSON."""
    return {
        "path": str(info.path),
        "component": info.component,
        "layout": info.layout,
        "container": info.container,
        "bytes": info.size,
        "tensors": info.tensors,
        "parameters": dict(info.parameters),
        "blocks": info.blocks,
        "has_lm_head": info.has_lm_head,
        "carries": list(info.carries),
        "complete": info.is_complete,
        "missing": list(info.missing),
        "unexpected": list(info.unexpected),
    }


def show(info: CheckpointInfo) -> None:
    """Print the findings."""
    table = Table(show_header=False, box=None, title=escape(str(info.path)), title_justify="left")
    table.add_row("part", f"{info.component}, {info.layout}")
    table.add_row("file", f"{info.container}, {info.size / 1e9:,.3f} GB, {info.tensors:,} tensors")
    values = ", ".join(f"{dtype} {count:,}" for dtype, count in info.parameters.items())
    table.add_row("values", values)
    if info.blocks:
        table.add_row("blocks", str(info.blocks))
    if info.has_lm_head is not None:
        can = "yes" if info.has_lm_head else "no: no lm_head, so it cannot rewrite prompts"
        table.add_row("writes text", can)
    if info.carries:
        table.add_row("carries", ", ".join(info.carries))
    table.add_row("complete", "[green]yes[/]" if info.is_complete else "[red]no[/]")
    for name, listed in (("missing", info.missing), ("unexpected", info.unexpected)):
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            table.add_row(name, escape(", ".join(listed[:_SHOWN])) + more)
    out.print(table)
