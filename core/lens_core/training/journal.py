"""What a training run says while it runs: one JSON line per report, and one line on the screen."""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends records to `log.jsonl` and keeps a progress line with the remaining time.

    Args:
        directory: Where `log.jsonl` is kept; created if missing.
        total_steps: Steps of the whole run, for the remaining time.
        first_step: Step the run starts or resumes from.
    """

    def __init__(self, directory: Path, total_steps: int, first_step: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "log.jsonl").open("a", encoding="utf-8")
        self._total = total_steps
        self._first = first_step
        self._started = time.monotonic()

    def report(self, step: int, **values: Any) -> None:
        """Write one record and refresh the progress line."""
        elapsed = time.monotonic() - self._started
        record = {"step": step, "seconds": round(elapsed, 1), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        pace = elapsed / max(1, step - self._first)
        remaining = (self._total - step) * pace
        shown = " ".join(f"{name} {_short(value)}" for name, value in values.items())
        line = (
            f"step {step}/{self._total} {shown} | {elapsed / 60:.1f} min, {remaining / 60:.0f} left"
        )
        end = "\r" if sys.stderr.isatty() else "\n"
        print(line.ljust(100), end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the log file."""
        self._file.close()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(item) for item in value) + "]"
    return str(value)
