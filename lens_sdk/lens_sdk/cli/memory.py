"""`lens memory`: shows how much memory each plan needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_sdk.cli.console import JsonOption, out, parse_size, print_json, reports_errors
from lens_sdk.cli.options import BatchOption

if TYPE_CHECKING:
    from lens_core.memory.predict import Prediction
    from lens_core.memory.table import MemoryTable


@reports_errors
def memory(
    size: Annotated[
        list[str] | None,
        typer.Option("--size", help="WIDTHxHEIGHT in pixels, such as 1024x1024. Repeatable."),
    ] = None,
    batch: BatchOption = 1,
    as_json: JsonOption = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Markdown file in which to replace the table.")
    ] = None,
) -> None:
    """Show how much memory the published Lens needs under each plan, and which fit here.

    JSON is in bytes, the table in GiB.

    Example: lens memory --size 1024x1024
    """
    from lens_sdk.models import require_packages

    require_packages()
    from lens_core.memory.dry_run import Work
    from lens_core.memory.published import published_model
    from lens_core.memory.table import DRAWING, predictions
    from lens_core.sizes import validate_size

    sizes = [parse_size(one) for one in size or ["1024x1024", "1440x1440"]]
    works = [Work(height or 0, width or 0, batch) for width, height in sizes]
    for work in works:
        validate_size(work.height, work.width)
    found = predictions(published_model(), works)
    if write is not None:
        DRAWING.write(write, found)
    if as_json:
        print_json([described(one) for one in found])
        return
    for work in works:
        show(DRAWING, [one for one in found if one.work == work])
    _tell_device()


def described(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction for JSON, in bytes."""
    return {
        "plan": prediction.plan.name,
        "width": prediction.work.width,
        "height": prediction.work.height,
        "batch": prediction.work.batch,
        "stages": prediction.stages,
        "peak": prediction.peak,
        "needed": prediction.needed,
        "host": prediction.host,
        "lossless": prediction.plan.is_lossless,
    }


def show(kind: MemoryTable, found: list[Prediction]) -> None:
    """Print a table for one size."""
    work = found[0].work
    table = Table(
        title=f"{work.width}x{work.height}, batch {work.batch}, GiB", title_justify="left"
    )
    for name in kind.header:
        table.add_column(name, justify="left" if name in {"plan", kind.effect} else "right")
    for prediction in found:
        table.add_row(*kind.row(prediction))
    out.print(table)


def _tell_device() -> None:
    from lens_core.errors import ParameterError
    from lens_core.memory.choose import default_device, fitting_plan, free_bytes
    from lens_core.memory.published import published_model

    device = default_device()
    free = None if device.type == "cpu" else free_bytes(device)
    if free is None:
        out.print("No accelerator found: on the CPU, everything is computed in main memory.")
        return
    try:
        plan = fitting_plan(published_model(), free).name
    except ParameterError as error:
        out.print(str(error), markup=False)
        return
    out.print(f"{device}: {free / 2**30:.1f} GiB free; --memory auto takes {plan!r}.", markup=False)
