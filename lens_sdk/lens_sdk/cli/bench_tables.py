"""Shows a benchmark's report as tables that fit a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    Row = Mapping[str, Any]


def tables(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the environment, a table for each kind of case, the kernels, and what did not run.

    Args:
        report: The contents of `report.json`.
    """
    settings = report["settings"]
    machine = settings["environment"]
    name = machine.get("gpu", machine["processor"])
    yield f"{settings['config']}, {settings['dtype']}, {name}"
    done = [row for row in report["results"] if "error" not in row]
    for kind in dict.fromkeys(row["kind"] for row in done):
        yield ""
        yield _TABLES.get(kind, _timings)(kind, [row for row in done if row["kind"] == kind])
    if kernels := {name: row["key"] for row in reversed(done) for name in row.get("kernels", ())}:
        yield "\nattention kernels"
        yield from (f"  {key}: {name}" for name, key in kernels.items())
    if failed := [row for row in report["results"] if "error" in row]:
        yield "\nnot measured"
        yield from (f"  {row['key']}: {row['error']}" for row in failed)


def milliseconds(seconds: float) -> str:
    """Format seconds as milliseconds, to three digits or a whole number."""
    value = seconds * 1e3
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _case(row: Row) -> str:
    """Return the case's key without its kind."""
    return str(row["key"]).removeprefix(f"{row['kind']}/")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("case", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _timings(kind: str, rows: Sequence[Row]) -> Table:
    table = _table(
        f"{kind}, ms", "median", "p95", "first", "TFLOP", "TFLOP/s", "ceiling", "peak GB"
    )
    for row in rows:
        table.add_row(
            _case(row),
            *(milliseconds(row[name]) for name in ("seconds", "p95", "first")),
            f"{row['flops'] / 1e12:.3g}" if row["flops"] else "",
            f"{row['tflops']:.3g}" if "tflops" in row else "",
            f"{row['share']:.0%}" if "share" in row else "",
            f"{row['peak_bytes'] / 1e9:.1f}" if row["peak_bytes"] else "",
        )
    return table


def _comparisons(_: str, rows: Sequence[Row]) -> Table:
    table = _table(
        f"against the plain path, ms of the {rows[0]['comparison']['clock']}'s clock",
        "plain",
        "this",
        "ratio",
        "95 % interval",
        "pairs",
    )
    for row in rows:
        found = row["comparison"]
        low, high = found["interval"]
        table.add_row(
            _case(row),
            milliseconds(found["base"]),
            milliseconds(found["other"]),
            f"{found['ratio']:.3f}",
            f"{low:.3f} to {high:.3f}",
            str(found["pairs"]),
        )
    return table


def _accuracies(_: str, rows: Sequence[Row]) -> Table:
    table = _table("distance from float32", "plain in bfloat16", "this", "factor")
    for row in rows:
        found = row["accuracy"]
        plain, error = found["plain"], found["error"]
        table.add_row(_case(row), f"{plain:.3g}", f"{error:.3g}", f"{error / plain:.2f}")
    return table


def _parts(_: str, rows: Sequence[Row]) -> Table:
    names = [*rows[0]["parts"]]
    table = _table("one stage after the other, ms", *names, "whole")
    for row in rows:
        stages = (row["parts"][name] for name in names)
        table.add_row(_case(row), *(milliseconds(one) for one in (*stages, row["seconds"])))
    return table


_TABLES = {"paired": _comparisons, "accuracy": _accuracies, "split": _parts}
