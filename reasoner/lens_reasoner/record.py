"""Runs on disk, written as they happen, so that a killed one can go on.

A run's folder holds

- `events.jsonl`: one JSON object a line. The first is the `RunHeader`; each other one holds an
  "event" and the "clock" at which it happened: seconds of the run by stage, with "total". `Step`
  events are left out. Every line is on the disk before anybody is told of the event.
- `images/`: the pictures, byte for byte, under the SHA-256 of their bytes.

A killed run loses no result that was written. A call that was under way when it was killed has no
line, so it is made again when the run goes on: at most the calls in flight are paid for twice.
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
    """What a run is about: the first line of its events.

    Attributes:
        kind: Tells such a file from others.
        schema_version: Version of the format.
        created: When it began, in ISO 8601, UTC.
        request: What was asked for.
        rubric: The criteria, if they were given and not written.
        limits: When it ends.
        parts: What each part of the loop says it is.
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
        """The header of a run that begins now."""
        return cls(
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request=request,
            rubric=rubric,
            limits=limits or LoopLimits(),
            parts=dict(parts or {}),
        )

    def check_same(self, other: RunHeader, folder: Path) -> None:
        """Refuse to go on with a run that was about something else.

        Raises:
            RunRecordError: Naming what differs.
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
    """What must stay the same, field by field."""
    fields = header.model_dump(exclude={"created"})
    nested = {name: fields.pop(name) for name in ("request", "limits", "parts")}
    inner = {f"{name}.{key}": v for name, part in nested.items() for key, v in part.items()}
    return {**fields, **inner}


class RunRecord:
    """A run's folder, read.

    Attributes:
        folder: Where it is.
        lines: The whole lines of its events, the header's first, without line ends.
        header: What it is about.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a run.

        Raises:
            RunRecordError: If there is none, or one that this version cannot read.
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
        """What happened so far, pictures included."""
        return [event for event, _ in self._entries]

    @property
    def clock(self) -> dict[str, Seconds]:
        """Seconds of the run by stage when the last event happened, with "total"."""
        return dict(self._entries[-1][1]) if self._entries else {}

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        last = json.loads(self.lines[-1])
        event = last.get("event") if isinstance(last, dict) else None
        return isinstance(event, dict) and event.get("type") == "finished"

    def state(self) -> RunState:
        """What is known of the run.

        Raises:
            RunRecordError: If its events cannot be read, or do not follow from one another.
        """
        state = RunState()
        try:
            for event in self.events:
                state.apply(event)
            if self.events and state.request is None:
                raise LookupError("it never began")
        except LookupError as error:
            raise RunRecordError(
                f"An event in {self.folder / EVENTS} is about something that no earlier one tells.",
                hint="The run was changed after it was written; start it again.",
            ) from error
        return state

    def result(self) -> LoopResult:
        """The run's result, or what there is of it.

        Raises:
            RunRecordError: If nothing but its header was written.
        """
        state = self.state()
        if state.request is None:
            raise RunRecordError(
                f"The run in {self.folder} ended before it started.", hint="Resume it."
            )
        return state.result()


class RunWriter:
    """Writes a run's events down; one at a time for each folder."""

    def __init__(self, folder: str | Path, header: RunHeader) -> None:
        """Begin a run, or go on with the one that is there.

        Args:
            folder: The run's own; made if it is missing.
            header: What the run is about; what is there must be about the same.

        Raises:
            RunRecordError: If the folder holds something else, or somebody else is writing there.
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
        # What follows the last whole line was being written when the run was killed.
        whole = sum(len(line) + 1 for line in record.lines)
        with path.open("r+b") as file:
            file.truncate(whole)
        return record

    def append(self, event: Event, clock: Mapping[str, Seconds]) -> None:
        """Write an event down; on return it is on the disk."""
        data = event.model_dump(mode="json", exclude={"image": {"data"}})
        if event.type == "image_ready":
            name = event.image.sha256 + SUFFIXES[event.image.media_type]
            data["image_file"] = name
            path = self.folder / IMAGES / name
            if not path.exists():
                write_atomically(path, event.image.data)
        append_line(self._file, _line({"event": data, "clock": dict(clock)}))

    def close(self) -> None:
        """Let others write."""
        self._file.close()
        self._lock.release()


class RunStore:
    """A folder of runs, each in a folder of its own."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def new(self) -> Path:
        """A folder for a run that is yet to begin; named after the time, and not made yet."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        return self.folder / f"{now}-{secrets.token_hex(3)}"

    def folders(self) -> list[Path]:
        """The folders that hold runs, by name."""
        return sorted(path.parent for path in self.folder.glob(f"*/{EVENTS}"))

    def runs(self) -> list[RunRecord]:
        """All runs, the earliest first; pictures are read only when they are asked for.

        Raises:
            RunRecordError: If one cannot be read.
        """
        return sorted(map(RunRecord, self.folders()), key=lambda run: run.header.created)

    def open(self, name: str) -> RunRecord:
        """The run in the folder of that name.

        Raises:
            RunRecordError: If there is none, or the name leads out of this folder.
        """
        if name in {"", ".", ".."} or any(mark in name for mark in "/\\\0"):
            raise RunRecordError(
                f"{name!r} is not the name of a run.", hint="Give the name of a folder, not a path."
            )
        return RunRecord(self.folder / name)


def _line(data: object) -> bytes:
    return json.dumps(data, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _whole_lines(folder: Path) -> list[bytes]:
    """The lines of a run's events; what a kill left of one more is no line."""
    path = folder / EVENTS
    if not path.is_file():
        raise RunRecordError(
            f"{folder} holds no run: there is no {EVENTS}.",
            hint="Name the folder of a run, or record one into it.",
        )
    data = path.read_bytes()
    lines = data.split(b"\n")[:-1]
    # After a power failure the last line may have its length but not its content.
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
        raise ValueError(f"the picture {name} is not the one that was recorded")
    return event
