"""`lens bench`: measures how fast the model runs on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_sdk.cli.bench_tables import milliseconds, tables
from lens_sdk.cli.choices import Device, Dtype
from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import DeviceOption
from lens_sdk.models import require_packages

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FOLDER = Path("lens-bench")


@reports_errors
def bench(
    config: Annotated[
        str,
        typer.Option("--config", "-c", help="Model size, with random weights: nano, mid, lens."),
    ] = "lens",
    folder: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for results; a stopped run resumes there."),
    ] = DEFAULT_FOLDER,
    device: DeviceOption = Device.AUTO,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Number format; auto is bfloat16 on a GPU.")
    ] = Dtype.AUTO,
    speed: Annotated[
        list[str] | None,
        typer.Option(
            "--speed", help="Speed plan to measure, such as plain, exact or fast. Repeatable."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="Only this kind of case, such as denoise or generate. Repeatable."
        ),
    ] = None,
    paired: Annotated[
        list[str] | None,
        typer.Option(
            "--paired", help="Compare this plan (or all) with plain, alternating. Repeatable."
        ),
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=1, help="Warm-up calls.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Measured calls.")] = 20,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0, help="Start nothing new after this time; run again to resume."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Measure nothing; check every path's shapes, without a GPU."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast this machine is: every part of the model, and complete images.

    By default, uses the published model's size with random weights, which are just as fast.

    Example: lens bench --config nano --only generate
    """
    require_packages()
    from lens_core.bench.run import BenchSettings, run_bench

    if check:
        _rehearse(config, as_json)
        return
    settings = BenchSettings(
        config=config,
        device=device,
        dtype=dtype,
        speeds=tuple(speed or ("plain", "fast", "fp8")),
        kinds=tuple(only or ()),
        paired=tuple(paired or ()),
        warmup=warmup,
        repeats=repeats,
        minutes=minutes,
    )
    log = run_bench(settings, folder, lambda row: err.print(_line(row), markup=False))
    if log.left:
        err.print(f"{log.left} cases are left: run the same command to resume", markup=False)
    report = json.loads(log.write_report().read_text(encoding="utf-8"))
    if as_json:
        print_json(report)
    else:
        for part in tables(report):
            out.print(part, markup=False)


def _rehearse(config: str, as_json: bool) -> None:
    """Run all code paths without measuring; fails if one does not run."""
    from dataclasses import asdict

    from lens_core.bench.cases import DENOISER_PLANS
    from lens_core.bench.configs import bench_config
    from lens_core.bench.dry_run import dry_run

    found = list(dry_run(bench_config(config), DENOISER_PLANS))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        table = Table("path", "TFLOP", "weights", "computing", "problem")
        for one in found:
            sizes = (f"{size / 2**30:.2f} GiB" for size in (one.weights, one.peak))
            table.add_row(one.key, f"{one.flops / 1e12:.4g}", *sizes, one.error or "")
        out.print(table)
    if any(one.error is not None for one in found):
        raise typer.Exit(1)


def _line(row: Mapping[str, Any]) -> str:
    """Format a result to print as soon as it is measured."""
    if "error" in row:
        return f"{row['key']}: {row['error']}"
    if "accuracy" in row:
        found = row["accuracy"]
        return f"{row['key']}: {found['error'] / found['plain']:.2f} of rounding's own error"
    if "comparison" in row:
        return f"{row['key']}: {row['comparison']['ratio']:.3f} of plain"
    return f"{row['key']}: {milliseconds(row['seconds'])} ms"
