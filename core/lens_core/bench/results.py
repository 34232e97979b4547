"""Results on disk: one line of JSON per case, written when the case is done."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lens_core.bench.cases import Case
from lens_core.bench.stages import Measured
from lens_core.errors import ParameterError
from lens_core.speed import named_plan

SETTINGS, RESULTS, REPORT = "settings.json", "results.jsonl", "report.json"
_PACKAGES = ("torch", "diffusers", "transformers", "triton", "lens-sdk")

Row = dict[str, Any]


def environment(device: torch.device) -> dict[str, Any]:
    """Return the hardware and the software versions."""
    versions = {package: _version(package) for package in _PACKAGES}
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "packages": versions,
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParameterError(f"{path} is damaged ({error}); name another folder") from error
    return dict(found)


class ResultLog:
    """A folder of results, from which an interrupted run can resume.

    Args:
        folder: Created if it does not exist.
        settings: Config, precision, repeats, hardware and versions; they must not change.

    Attributes:
        rows: Results so far.
        left: Cases that a run did not reach because it ended early.

    Raises:
        ParameterError: The folder has results for other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        stated = json.loads(json.dumps(settings))
        path = folder / SETTINGS
        if path.is_file():
            before = _settings(path)
            if differing := sorted(k for k in {*before, *stated} if before.get(k) != stated.get(k)):
                raise ParameterError(
                    f"{folder} holds results with other {', '.join(differing)}; name another folder"
                )
        else:
            path.write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
        self._settings = stated
        self.left = 0
        self.rows = self._read()

    def has(self, case: Case) -> bool:
        """Whether a case is done. Failed cases are not retried."""
        return any(row["key"] == case.key for row in self.rows)

    def add(self, case: Case, measured: Measured | None, error: str | None = None) -> Row:
        """Write the outcome of a case."""
        row = _row(case, measured, error)
        with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        return row

    def write_report(self) -> Path:
        """Write all results to one JSON file, with each case's share of the ceiling."""
        path = self.folder / REPORT
        report = {"settings": self._settings, "results": with_shares(self.rows)}
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return path

    def _read(self) -> list[Row]:
        path = self.folder / RESULTS
        if not path.is_file():
            return []
        text = path.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:
            # The run was killed while writing; this case is measured again.
            path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        lines = whole.splitlines()
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise ParameterError(
                f"{path} is damaged ({error}): remove its last line, or name another folder"
            ) from error


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Add `share` to rows: operations per second relative to the bfloat16 ceiling.

    Rows of plans with 8-bit products also get `fp8_share`, relative to the 8-bit ceiling.
    """
    ceilings = {row["what"]: row.get("tflops") for row in rows if row["kind"] == "ceiling"}
    found = []
    for row in rows:
        shares = {"share": ceilings.get("")}
        if row["speed"] and named_plan(row["speed"]).rounds:
            shares["fp8_share"] = ceilings.get("fp8")
        achieved = row.get("tflops")
        known = {name: achieved / top for name, top in shares.items() if achieved and top}
        found.append({**row, **known})
    return found


def _row(case: Case, measured: Measured | None, error: str | None) -> Row:
    row: Row = {"key": case.key, **asdict(case)}
    if measured is None:
        return row | {"error": error}
    row |= {"peak_bytes": measured.peak_bytes, "kernels": list(measured.kernels)}
    row |= {"flops": measured.flops, "notes": measured.notes}
    if measured.parts:
        row["parts"] = measured.parts
    if measured.accuracy is not None:
        row["accuracy"] = asdict(measured.accuracy)
    if measured.comparison is not None:
        row["comparison"] = asdict(measured.comparison)
    timing = measured.timing
    if timing is not None:
        row |= {
            "seconds": timing.median,
            "p95": timing.p95,
            "first": timing.first,
            "samples": list(timing.samples),
            "clock": timing.clock,
        }
        if measured.flops is not None:
            row["tflops"] = measured.flops / timing.median / 1e12
    return row


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
