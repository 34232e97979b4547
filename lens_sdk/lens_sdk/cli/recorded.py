"""Reads recorded runs from their folder and prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_reasoner import LoopResult, ReasonerError, RunRecord, RunRecordError, RunStore
from lens_reasoner.media import SUFFIXES
from lens_reasoner.record import EVENTS, IMAGES
from lens_sdk.cli.console import err
from lens_sdk.client.local import run_info
from lens_sdk.client.types import RunInfo


def recorded_runs(folder: Path, limit: int) -> list[RunInfo]:
    """Return a folder's latest runs, newest first; unreadable runs are reported and left out."""
    found = []
    for path in RunStore(folder).folders():
        try:
            found.append(run_info(RunRecord(path)))
        except ReasonerError as error:
            _leave_out(path, error)
    return sorted(found, key=lambda info: (info.created_at, info.id), reverse=True)[:limit]


def readable_records(folder: Path, left_out: list[str] | None = None) -> Iterator[RunRecord]:
    """Yield a run, or the runs in a folder; each is fully read and then released.

    In a folder of several runs, unreadable ones are reported and left out.

    Args:
        folder: The folder of the run or runs.
        left_out: The names of unreadable runs are appended to it.

    Raises:
        RunRecordError: There is no run, or none can be read.
    """
    if (folder / EVENTS).is_file():
        yield RunRecord(folder)
        return
    paths = RunStore(folder).folders()
    if not paths:
        raise RunRecordError(
            f"There is no run in {folder}.",
            hint="Name a folder of recorded runs, or that of one run.",
        )
    damaged = [] if left_out is None else left_out
    for path in paths:
        try:
            record = RunRecord(path)
            record.state()  # Raises for a damaged record.
        except ReasonerError as error:
            _leave_out(path, error)
            damaged.append(path.name)
        else:
            yield record
    if len(damaged) == len(paths):
        raise RunRecordError(
            f"None of the runs in {folder} can be read.", hint="Above is what is wrong with each."
        )


def _leave_out(path: Path, error: ReasonerError) -> None:
    err.print(f"{path.name} is left out: {error.message}", markup=False, soft_wrap=True)


def recorded_run(folder: Path) -> tuple[RunInfo, LoopResult]:
    """Read one run.

    Raises:
        RunRecordError: There is no run, or it cannot be read.
    """
    record = RunRecord(folder)
    return run_info(record), record.result()


def run_values(info: RunInfo, result: LoopResult, folder: Path | None) -> dict[str, Any]:
    """Return a run as JSON values; images are given by hash and, if local, by file."""
    values = result.model_dump(
        mode="json", exclude={"candidates": {"__all__": {"image": {"data"}}}}
    )
    for told, candidate in zip(values["candidates"], result.candidates, strict=True):
        told["sha256"] = candidate.image.sha256
        told["path"] = None if folder is None else str(_file(folder, candidate.image))
        told["score"] = candidate.score
    return {**info.model_dump(mode="json"), "result": values}


def print_run(console: Console, info: RunInfo, result: LoopResult, folder: Path | None) -> None:
    """Print a run as text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Run", info.id)
    table.add_row("Status", f"{info.status}, {result.stop_reason.replace('_', ' ')}")
    table.add_row("Request", Text(info.request.text))
    for version, prompt in enumerate(result.prompts):
        table.add_row(f"Prompt {version + 1}", Text(prompt.prompt))
    if result.refused is not None:
        table.add_row("Refused", Text(result.refused.reason))
    for index, candidate in enumerate(result.candidates):
        score = "not judged" if candidate.score is None else f"score {candidate.score:.2f}"
        parts = (
            f"round {candidate.round + 1}",
            f"prompt {candidate.prompt_version + 1}",
            "" if candidate.image.seed is None else f"seed {candidate.image.seed}",
            score,
        )
        best = index == result.best_index
        name = "Best" if best else f"Picture {index + 1}"
        table.add_row(name, Text(" · ".join(filter(None, parts)), style="green" if best else ""))
        if best and folder is not None:
            table.add_row("", Text(str(_file(folder, candidate.image))))
    for note in result.notes:
        table.add_row("Note", Text(note, style="yellow"))
    usd = result.usage.usd
    cost = "unknown" if usd is None else f"${usd:.4f}"
    table.add_row("Cost", cost)
    if "total" in result.timings:
        table.add_row("Time", f"{result.timings['total']:.1f} s")
    console.print(table)


def _file(folder: Path, image: Any) -> Path:
    return folder / IMAGES / f"{image.sha256}{SUFFIXES[image.media_type]}"
