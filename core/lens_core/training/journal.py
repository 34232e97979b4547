"""Progress of a training run: a JSON line per report, trackers, and a progress bar."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_core.training.config import StageConfig
from lens_core.training.trackers import Tracker, open_trackers, scalars

_BAR = 20
_LOG = "log.jsonl"


class Journal:
    """Appends records to `log.jsonl` and keeps a progress bar with the remaining time.

    Args:
        directory: Where `log.jsonl` is kept; created if missing.
        total_steps: Steps of the whole run, for the remaining time.
        first_step: Step the run starts or resumes from.
        trackers: Take the same records; closed with the journal.
    """

    def __init__(
        self,
        directory: Path,
        total_steps: int,
        first_step: int = 0,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / _LOG).open("a", encoding="utf-8")
        self._total = total_steps
        self._first = first_step
        self._trackers = trackers
        self._started = time.monotonic()

    @classmethod
    def of_stage(cls, directory: Path, config: StageConfig, first_step: int) -> "Journal":
        """The journal of a stage, with the trackers that its settings ask for.

        Records in `log.jsonl` of steps after `first_step` are dropped: the run takes them again.
        Of several processes only the one that reports may have it.

        Args:
            directory: The stage's folder.
            config: Its settings.
            first_step: Step it starts or resumes from.

        Raises:
            TrackerMissingError: A tracker's package is not installed.
        """
        trackers = open_trackers(config.trackers, directory, first_step)
        _drop_after(first_step, directory / _LOG)
        return cls(directory, config.steps, first_step, trackers)

    def report(self, step: int, **values: Any) -> None:
        """Write one record and refresh the progress bar."""
        elapsed = time.monotonic() - self._started
        record = {"step": step, "seconds": round(elapsed, 1), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(step, dict(scalars(values)))
        pace = elapsed / max(1, step - self._first)
        remaining = (self._total - step) * pace
        shown = " ".join(f"{name} {_short(value)}" for name, value in values.items())
        filled = _BAR * step // self._total
        bar = "#" * filled + "-" * (_BAR - filled)
        line = (
            f"[{bar}] step {step}/{self._total} {shown} "
            f"| {elapsed / 60:.1f} min, {remaining / 60:.0f} left"
        )
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(line[:width].ljust(width), end="\r", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show a picture file to the trackers."""
        for tracker in self._trackers:
            tracker.picture(step, name, path)

    def close(self) -> None:
        """Close the log file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _drop_after(step: int, log: Path) -> None:
    """Drop the records of later steps, and lines that are none, such as one that a kill cut."""
    if not log.is_file():
        return
    before = log.read_bytes()
    after = b"".join(line + b"\n" for line in before.splitlines() if _is_by(step, line))
    if after == before:
        return
    fresh = log.with_name(f"{_LOG}.new")
    fresh.write_bytes(after)
    fresh.replace(log)


def _is_by(step: int, line: bytes) -> bool:
    """Whether it is a record, and not of a step after this one."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and int(record.get("step", 0)) <= step


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + " ".join(f"{name} {_short(item)}" for name, item in value.items()) + "}"
    return str(value)
