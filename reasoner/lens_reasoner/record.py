"""Runs on disk, written as they happen, so that a killed run can be resumed.

A run's folder has

- `events.jsonl`: one JSON object per line. The first is the `RunHeader`. Each other line has an
  "event" and the "clock" when it happened: seconds of the run by stage, with "total". `Step` events
  are not recorded. Every line is on disk before anyone sees the event.
- `images/`: the images, byte for byte, named by their SHA-256.

A killed run loses no recorded result. A call that was in flight has no line and is made again when
the run is resumed, so at most the calls in flight are paid for twice.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lens_reasoner.atomic import append_line, write_atomically
from lens_reasoner.errors import RunRecordError
from lens_reasoner.events import Event, read_event
from lens_reasoner.loop_limits import LoopLimits
from lens_reasoner.media import SUFFIXES
from lens_reasoner.run_state import LoopResult, RunState
from lens_reasoner.types import ImageRequest, Rubric, Seconds, Value

SCHEMA_VERSION = 1
EVENTS = "events.jsonl"
IMAGES = "images"
LOCK = ".lock"


class RunHeader(Value):
    """What a run is about; the first line of its events.

    Attributes:
        kind: Identifies the file format.
        schema_version: Version of the format.
        created: Start time in ISO 8601, UTC.
        request: The request.
        rubric: The criteria, if given; None if the run writes them.
        limits: When the run ends.
        parts: Identity of each part of the loop.
    """

    kind: Literal["lens-run"] = "lens-run"
    schema_version: int = SCHEMA_VERSION
    created: str
    request: ImageRequest
    rubric: Rubric | None = None
    limits: LoopLimits = LoopLimits()
    parts: dict[str, str] = Field(default_factory=dict)

    @field_validator("created")
    @classmethod
    def _is_a_time(cls, created: str) -> str:
        datetime.fromisoformat(created)
        return created

    @classmethod
    def now(
        cls,
        request: ImageRequest,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> RunHeader:
        """The header of a run that starts now."""
        return cls(
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request=request,
            rubric=rubric,
            limits=limits or LoopLimits(),
            parts=dict(parts or {}),
        )

    def check_same(self, other: RunHeader, folder: Path) -> None:
        """Refuse to continue a run with another header.

        Raises:
            RunRecordError: They differ; the message says in what.
        """
        mine, theirs = (_flat(header) for header in (self, other))
        changes = "; ".join(
            f"{name} was {mine.get(name)!r} and is now {theirs.get(name)!r}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        )
        if changes:
            raise RunRecordError(
                f"The run in {folder} is another one: {changes}.",
                hint="Resume it with its original parts, or record into another folder.",
            )


def _flat(header: RunHeader) -> dict[str, Any]:
    """The fields that must stay the same, flattened."""
    fields = header.model_dump(exclude={"created"})
    nested = {name: fields.pop(name) for name in ("request", "limits", "parts")}
    inner = {f"{name}.{key}": v for name, part in nested.items() for key, v in part.items()}
    return {**fields, **inner}


class RunRecord:
    """A run's folder, opened for reading.

    Attributes:
        folder: The folder.
        lines: The complete lines of `events.jsonl`, the header first, without line ends.
        header: What the run is about.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a run.

        Raises:
            RunRecordError: There is no run, or this version cannot read it.
        """
        self.folder = Path(folder)
        self.lines = _whole_lines(self.folder)
        try:
            first = json.loads(self.lines[0])
            version = first.get("schema_version")
            if version != SCHEMA_VERSION:
                raise RunRecordError(
                    f"The run in {self.folder} has schema version {version!r}; this version of "
                    f"lens_reasoner reads {SCHEMA_VERSION}.",
                    hint="Open it with the version that wrote it.",
                )
            self.header = RunHeader.model_validate(first)
        except RunRecordError:
            raise
        except (ValueError, AttributeError) as error:
            raise RunRecordError(
                f"The first line of {self.folder / EVENTS} is not a run header: {error}",
                hint="Only folders written by a loop can be opened.",
            ) from error

    @cached_property
    def _entries(self) -> list[tuple[Event, dict[str, Seconds]]]:
        entries = []
        for number, line in enumerate(self.lines[1:], start=2):
            try:
                data = json.loads(line)
                clock = {stage: float(seconds) for stage, seconds in data["clock"].items()}
                entries.append((_event_of(data["event"], self.folder), clock))
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                raise RunRecordError(
                    f"Line {number} of {self.folder / EVENTS} cannot be read: {error}",
                    hint="The run was changed after it was written; start it again.",
                ) from error
        return entries

    @property
    def events(self) -> list[Event]:
        """The events so far, with their images."""
        return [event for event, _ in self._entries]

    @property
    def clock(self) -> dict[str, Seconds]:
        """Seconds of the run by stage at the last event, with "total"."""
        return dict(self._entries[-1][1]) if self._entries else {}

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        last = json.loads(self.lines[-1])
        event = last.get("event") if isinstance(last, dict) else None
        return isinstance(event, dict) and event.get("type") == "finished"

    def state(self) -> RunState:
        """The run's state.

        Raises:
            RunRecordError: Its events cannot be read or are inconsistent.
        """
        state = RunState()
        try:
            for event in self.events:
                state.apply(event)
            if self.events and state.request is None:
                raise LookupError("there is no Started event")
        except LookupError as error:
            raise RunRecordError(
                f"An event in {self.folder / EVENTS} refers to something that no earlier one has.",
                hint="The run was changed after it was written; start it again.",
            ) from error
        return state

    def result(self) -> LoopResult:
        """The run's result, or the result so far.

        Raises:
            RunRecordError: Only the header was written.
        """
        state = self.state()
        if state.request is None:
            raise RunRecordError(
                f"The run in {self.folder} ended before it started.", hint="Resume it."
            )
        return state.result()


class RunWriter:
    """Writes a run's events; only one writer at a time can have a folder open."""

    def __init__(self, folder: str | Path, header: RunHeader) -> None:
        """Start a run, or continue the one in the folder.

        Args:
            folder: The run's folder; created if it is missing.
            header: What the run is about; must match the header in the folder, if any.

        Raises:
            RunRecordError: The folder holds another run, or another writer has it open.
        """
        from filelock import FileLock, Timeout

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RunRecordError(
                f"The run in {self.folder} is being written by another process or loop.",
                hint="Wait for it, or record into another folder.",
            ) from error
        try:
            self.record = self._open(header)
            self._file = (self.folder / EVENTS).open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, header: RunHeader) -> RunRecord:
        path = self.folder / EVENTS
        if not path.exists():
            write_atomically(path, _line(header.model_dump(mode="json")))
        record = RunRecord(self.folder)
        record.header.check_same(header, self.folder)
        record.state()
        # Anything after the last complete line was being written when the run was killed.
        whole = sum(len(line) + 1 for line in record.lines)
        with path.open("r+b") as file:
            file.truncate(whole)
        return record

    def append(self, event: Event, clock: Mapping[str, Seconds]) -> None:
        """Write an event; on return it is on disk."""
        data = event.model_dump(mode="json", exclude={"image": {"data"}})
        if event.type == "image_ready":
            name = event.image.sha256 + SUFFIXES[event.image.media_type]
            data["image_file"] = name
            path = self.folder / IMAGES / name
            if not path.exists():
                write_atomically(path, event.image.data)
        append_line(self._file, _line({"event": data, "clock": dict(clock)}))

    def close(self) -> None:
        """Release the folder for other writers."""
        self._file.close()
        self._lock.release()


class RunStore:
    """A folder of runs, each in its own subfolder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def new(self) -> Path:
        """Path for a new run's folder, named by the current time; the folder is not created."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        return self.folder / f"{now}-{secrets.token_hex(3)}"

    def folders(self) -> list[Path]:
        """The folders that hold runs, sorted by name."""
        return sorted(path.parent for path in self.folder.glob(f"*/{EVENTS}"))

    def runs(self) -> list[RunRecord]:
        """All runs, the earliest first; images are only read when they are used.

        Raises:
            RunRecordError: A run cannot be read.
        """
        return sorted(map(RunRecord, self.folders()), key=lambda run: run.header.created)

    def open(self, name: str) -> RunRecord:
        """Open the run in the subfolder `name`.

        Raises:
            RunRecordError: There is no such run, or `name` is a path.
        """
        if name in {"", ".", ".."} or any(mark in name for mark in "/\\\0"):
            raise RunRecordError(
                f"{name!r} is not the name of a run.", hint="Give the name of a folder, not a path."
            )
        return RunRecord(self.folder / name)


def _line(data: object) -> bytes:
    return json.dumps(data, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _whole_lines(folder: Path) -> list[bytes]:
    """The complete lines of a run's events; an incomplete last line is dropped."""
    path = folder / EVENTS
    if not path.is_file():
        raise RunRecordError(
            f"{folder} does not hold a run: it has no {EVENTS}.",
            hint="Give the folder of a run, or record a run into it.",
        )
    data = path.read_bytes()
    lines = data.split(b"\n")[:-1]
    # After a power failure, the last line may have its length but not its content.
    if len(lines) > 1 and not _is_json(lines[-1]):
        lines.pop()
    return lines or [b""]


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _event_of(data: dict[str, Any], folder: Path) -> Event:
    name = data.pop("image_file", None)
    if name is not None:
        data["image"]["data"] = (folder / IMAGES / Path(name).name).read_bytes()
    event = read_event(data)
    if event.type == "image_ready" and event.image.sha256 != Path(str(name)).stem:
        raise ValueError(f"the image {name} is not the one that was recorded")
    return event
