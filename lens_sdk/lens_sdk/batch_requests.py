"""Reads the requests of a batch from a file; every line is checked before any is run."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lens_reasoner import Generator, ImageRequest, Rubric, UnsupportedSettingError
from lens_reasoner.settings import honoured_settings
from lens_reasoner.text_files import read_text
from lens_sdk.errors import BatchFileError
from lens_sdk.file_names import name_of

_JSON_ENDINGS = {".jsonl", ".ndjson"}
_ID = re.compile(r"\w(?:[\w.-]{0,98}[\w-])?")
_DEVICE = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""Names that Windows reserves, whatever their suffix."""

_MOST_BYTES = 200
"""Longest id: file systems limit names to 255 bytes, including suffixes."""

_MOST_TOLD = 20
_SIZES = ("width", "height", "aspect_ratio")
_HINT = (
    "Write one request per line: as it is in a text file; in a .jsonl file a string in quotes, or "
    "an object with text and, as wanted, id, rubric and fields of ImageRequest."
)


@dataclass(frozen=True)
class BatchRequest:
    """One request of the file.

    Attributes:
        line: The line number, from 1.
        id: The unique id, also used in file names.
        request: What to generate.
        rubric: The criteria; None has the rubric writer write them.
    """

    line: int
    id: str
    request: ImageRequest
    rubric: Rubric | None = None


def read_requests(
    path: str | Path, defaults: Mapping[str, object] | None = None
) -> tuple[BatchRequest, ...]:
    """Read a text file with one request per line, or a JSONL file; empty lines are ignored.

    A request without an id gets one from its content, which stays the same when lines move.

    Args:
        path: The file; the suffixes .jsonl and .ndjson mean JSON.
        defaults: Fields of `ImageRequest` for requests that do not set them.

    Raises:
        BatchFileError: The file is unreadable or empty, or lines are invalid or repeat an id; the
            message lists them.
    """
    path = Path(path)
    try:
        # Split at line feeds only: JSON strings may contain other line separators.
        lines = read_text(path).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchFileError(f"{path} cannot be read: {error}.", hint=_HINT) from error
    found: list[BatchRequest] = []
    wrong: dict[int, str] = {}
    names = _Names()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _entry(line.strip(), is_json=path.suffix.lower() in _JSON_ENDINGS)
            one = _request(number, entry, defaults or {}, names)
        except ValidationError as error:
            wrong[number] = "; ".join(_told(detail) for detail in error.errors())
        except ValueError as error:
            wrong[number] = str(error)
        else:
            found.append(one)
    _refuse(path, wrong, _HINT)
    if not found:
        raise BatchFileError(f"There are no requests in {path}.", hint=_HINT)
    return tuple(found)


def check_requests(path: Path, requests: Iterable[BatchRequest], generator: Generator) -> None:
    """Check that a generator supports every request.

    Raises:
        BatchFileError: Some requests are not supported; the message lists them.
    """
    wrong: dict[int, str] = {}
    for one in requests:
        try:
            honoured_settings(one.request, generator)
        except UnsupportedSettingError as error:
            wrong[one.line] = error.message
    _refuse(path, wrong, "Change these settings or leave them out, or choose another model.")


def _refuse(path: Path, wrong: Mapping[int, str], hint: str) -> None:
    if not wrong:
        return
    told = [f"line {number}: {what}" for number, what in [*wrong.items()][:_MOST_TOLD]]
    if len(wrong) > _MOST_TOLD:
        told.append(f"and {len(wrong) - _MOST_TOLD} more")
    count = "1 line" if len(wrong) == 1 else f"{len(wrong)} lines"
    raise BatchFileError("\n".join([f"{count} of {path} cannot be used:", *told]), hint=hint)


def _entry(line: str, *, is_json: bool) -> dict[str, Any]:
    """Parse a line into an object."""
    entry: object = line
    if is_json or line.startswith("{"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if is_json:
                raise ValueError(f"it is not JSON: {error}") from error
    if not is_json and entry is not line:
        raise ValueError("it is JSON; let the file's name end in .jsonl")
    if isinstance(entry, str):
        return {"text": entry}
    if not isinstance(entry, dict):
        raise ValueError(f"{line[:40]} is neither a string nor an object")
    return entry


def _request(
    number: int, entry: Mapping[str, Any], defaults: Mapping[str, object], names: _Names
) -> BatchRequest:
    # `group` is for `lens optimize`, whose request files work here too.
    own = {name: entry.get(name) for name in ("id", "rubric", "group")}
    fields = {name: value for name, value in entry.items() if name not in own}
    if "text" not in fields:
        raise ValueError("there is no text")
    # The default size does not apply if the request sets a size in any form.
    sized = any(fields.get(name) is not None for name in _SIZES)
    usual = {name: v for name, v in defaults.items() if not (sized and name in _SIZES)}
    request = ImageRequest.model_validate({**usual, **fields})
    rubric = None if own["rubric"] is None else Rubric.model_validate(own["rubric"])
    if not _is_text(entry):
        raise ValueError("half of a surrogate pair is in it; decode the text anew")
    name = names.free(_name(fields)) if own["id"] is None else str(own["id"])
    names.take(name, number)
    return BatchRequest(number, name, request, rubric)


def _is_text(value: object) -> bool:
    """Whether all its strings can be encoded as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class _Names:
    """The ids in use; no two may become the same file name on any file system."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._repeated: Counter[str] = Counter()

    def take(self, name: str, line: int) -> None:
        """Reserve a name for a line.

        Raises:
            ValueError: The name is not a valid file name, or is already taken.
        """
        if not _ID.fullmatch(name) or _DEVICE.fullmatch(name):
            raise ValueError(
                f"the id {name!r} names no file: up to 100 letters, digits, dots, dashes and "
                "underscores, with a letter or digit first, no dot at the end, and none of "
                "Windows' own such as NUL"
            )
        if len(name.encode()) > _MOST_BYTES:
            raise ValueError(f"the id {name!r} is longer than {_MOST_BYTES} bytes")
        key = _key(name)
        if key in self._lines:
            raise ValueError(f"the id {name!r} is that of line {self._lines[key]} too")
        self._lines[key] = line

    def free(self, name: str) -> str:
        """Return the name, or the first free one with a number appended."""
        free = name
        while _key(free) in self._lines:
            # Continue from the last number, as the same line may occur many times.
            self._repeated[name] += 1
            free = f"{name}-{self._repeated[name] + 1}"
        return free


def _key(name: str) -> str:
    # Some file systems ignore case and Unicode normalisation.
    return unicodedata.normalize("NFC", name).casefold()


def _name(fields: Mapping[str, Any]) -> str:
    said = json.dumps(fields, sort_keys=True).encode()
    return f"{name_of(fields['text'])}-{hashlib.sha256(said).hexdigest()[:6]}"


def _told(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
