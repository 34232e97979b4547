"""Load test of `lens serve`, with lens-nano and real HTTP.

There are six cases, each with figures and with checks that make the command fail:

- `batches`: images per second and latency with 1, 2, 4 and 8 clients, which share a batch;
- `crowd`: 200 clients at once; the queue holds 64, and the others get 429 and a Retry-After;
- `slow_readers`: clients that stop reading midway and continue later in small pieces;
- `leavers`: clients that disconnect midway, some of which return with the same idempotency key;
- `killed`: SIGKILL under load and a restart, with and without idempotency keys;
- `memory`: 2,000 requests of the smallest kind, monitoring memory and files.

Answers are checked for the number, size, seed and prompt of their images; files fetched by URL are
also checked for their metadata. A sample of the crowd's images is generated again alone.

Run from the repository; each case's results are written as soon as it is done:

    python benchmarks/server_load.py --out runs/server-load.json
    python benchmarks/server_load.py --quick
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from load_cases import batches, crowd, slow_readers
from load_report import QUICK, Load, Report, Scale
from load_server import OwnServer
from load_trouble import killed, leavers, memory

from lens_sdk.metadata import versions

CASES: dict[str, Callable[[Load], Awaitable[Report]]] = {
    "batches": batches,
    "crowd": crowd,
    "slow_readers": slow_readers,
    "leavers": leavers,
    "killed": killed,
    "memory": memory,
}
OUT = Path("runs/server-load.json")
STOPPED = {0, -signal.SIGTERM}
"""Exit status after SIGTERM; uvicorn raises the signal again after it has shut down."""


def main(
    only: Annotated[list[str] | None, typer.Option(help="Cases; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go; other cases in it stay.")] = OUT,
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything.")] = False,
) -> None:
    """Load a server and tell how it did."""
    scale = QUICK if quick else Scale()
    results, failed = _read(out), []
    with tempfile.TemporaryDirectory() as folder:
        server = OwnServer.started(Path(folder) / "state")
        load = Load(server, scale)
        try:
            for name in only or CASES:
                report = asyncio.run(CASES[name](load))
                _print(name, report)
                results |= {"machine": _machine(), "versions": _versions(), "scale": asdict(scale)}
                results.setdefault("cases", {})[name] = asdict(report)
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                failed += [f"{name}: {check}" for check, held in report.checks.items() if not held]
        finally:
            status = server.stop()
    failed += [f"told to stop, the server exits with {status}"] if status not in STOPPED else []
    for line in failed:
        print(f"FAILED {line}")
    raise typer.Exit(1 if failed else 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    return dict(found)


def _print(name: str, report: Report) -> None:
    print(f"\n## {name}\n")
    rows = report.figures.get("rows")
    if rows:
        print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        for row in rows:
            print(f"| {' | '.join(map(str, row.values()))} |")
    for key, value in report.figures.items():
        if key != "rows":
            print(f"- {key}: {value}")
    for check, held in report.checks.items():
        print(f"- {'holds' if held else 'FAILS'}: {check}")
    for note in report.notes:
        print(f"  {note}")


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "usable": usable,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": load,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


def _versions() -> dict[str, str]:
    return {**versions(), **{name: version(name) for name in ("fastapi", "uvicorn", "httpx")}}


if __name__ == "__main__":
    typer.run(main)
