"""The folder of a run: its description, journal, results and lock."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lens_prompt_opt.errors import RunDirectoryError, StudyMismatchError
from lens_prompt_opt.journal import DiskJournal
from lens_prompt_opt.study_description import StudyDescription
from lens_reasoner.atomic import write_atomically

STUDY_FILE = "study.json"
RESULT_FILE = "result.json"
CARD_FILE = "prompt.json"
UNPROVEN_FILE = "unproven.json"
_LOCK_FILE = "lock"


def generator_card_files(generators: Iterable[str]) -> list[str]:
    """Unique file names for the prompts of several generators."""
    taken: set[str] = set()
    files = []
    for generator in generators:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", generator).strip("-") or "generator"
        name, number = base, 2
        # Some file systems do not distinguish "A" and "a".
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        files.append(f"prompt-{name}.json")
    return files


class RunDirectory:
    """A run's files.

    `study.json` describes the run, `calls.jsonl` and `pictures/` hold every call's result, and
    `result.json` and `prompt.json` are written at the end. To resume a run, start the same study
    with the same directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def open(self, description: Mapping[str, Any]) -> Iterator[DiskJournal]:
        """Lock the directory, check that it belongs to this study, and read its journal.

        Args:
            description: Everything that the study's result depends on, as JSON, except the budget,
                which may be raised when resuming.

        Raises:
            RunDirectoryError: The directory cannot be used, or another process uses it.
            StudyMismatchError: It belongs to another study.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory {str(self.path)!r} cannot be made: {error}.",
                hint="Choose a folder that can be written.",
            ) from error
        with _locked(self.path / _LOCK_FILE):
            self._check(json.loads(json.dumps(description)))
            journal = DiskJournal(self.path)
            try:
                yield journal
            finally:
                journal.close()

    def _check(self, description: Mapping[str, Any]) -> None:
        path = self.path / STUDY_FILE
        if path.exists():
            before = self.description()
            # Fields that an earlier version did not record cannot differ.
            differ = sorted(n for n in before if _differs(before[n], description.get(n)))
            if differ:
                raise StudyMismatchError(
                    f"{str(self.path)!r} belongs to a study with other {', '.join(differ)}.",
                    hint="Resume with the same parts and data, or choose another directory.",
                )
        else:
            self.write(STUDY_FILE, description)

    def write(self, name: str, value: object) -> None:
        """Write JSON atomically."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / name, f"{text}\n".encode())

    def description(self) -> dict[str, Any]:
        """The description of the study, as JSON.

        Raises:
            RunDirectoryError: There is no run here.
        """
        return self._json(STUDY_FILE)

    def study(self) -> StudyDescription:
        """The description of the study, as far as report pages need it.

        Raises:
            RunDirectoryError: There is no run here, or a field is invalid.
        """
        try:
            return StudyDescription.model_validate(self.description())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise RunDirectoryError(
                f"{str(self.path / STUDY_FILE)!r} is damaged: {field}: {first['msg']}.",
                hint="It was changed since the study wrote it; put it back, or run the study "
                "again in another folder.",
            ) from error

    def result(self) -> dict[str, Any]:
        """The result of a finished run, as JSON.

        Raises:
            RunDirectoryError: The run is not finished.
        """
        return self._json(RESULT_FILE)

    def last_result(self) -> dict[str, Any] | None:
        """The latest result of the run; None if it has not finished yet.

        Raises:
            RunDirectoryError: It cannot be read.
        """
        return self.result() if (self.path / RESULT_FILE).exists() else None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise RunDirectoryError(
                f"{str(self.path / name)!r} cannot be read: {error}.",
                hint="Give the directory of a run; results are written when it finishes.",
            ) from error
        return value


def _differs(before: object, now: object) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):
        return any(_differs(value, now.get(name)) for name, value in before.items())
    return before != now


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, even by a crash."""
    with path.open("a+b") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            raise RunDirectoryError(
                f"{str(path.parent)!r} is in use by another process.",
                hint="Wait for it to end, or choose another directory.",
            ) from error
        yield


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
