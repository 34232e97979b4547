"""The requests of a batch, read from a file of which every line is checked before any is drawn."""

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
"""Names that Windows gives to no file, whatever its ending."""

_MOST_BYTES = 200
"""Of an id: file systems take names of 255, with endings."""

_MOST_TOLD = 20
_SIZES = ("width", "height", "aspect_ratio")
_HINT = (
    "Write one request per line: as it is in a text file; in a .jsonl file a string in quotes, or "
    "an object with text and, as wanted, id, rubric and fields of ImageRequest."
)


@dataclass(frozen=True)
class BatchRequest:
    """One line of the file.

    Attributes:
        line: Its number, from 1.
        id: Its name, which is also that of its files; no two are alike.
        request: What to draw.
        rubric: The criteria; None lets them be written.
    """

    line: int
    id: str
    request: ImageRequest
    rubric: Rubric | None = None


def read_requests(
    path: str | Path, defaults: Mapping[str, object] | None = None
) -> tuple[BatchRequest, ...]:
    """Read a text file with a request per line, or a JSONL file; empty lines count for nothing.

    Who has no id is named after what its line says, and keeps its name where lines come and go.

    Args:
        path: The file; one that ends in .jsonl or .ndjson holds JSON.
        defaults: Fields of `ImageRequest` for those that do not give them.

    Raises:
        BatchFileError: It cannot be read, is empty, or has lines that are no requests, or ids that
            are there twice; all of them are named.
    """
    path = Path(path)
    try:
        # Lines end with line feeds alone: JSON may hold other marks that end lines elsewhere.
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
    """See that a generator can draw them all.

    Raises:
        BatchFileError: It cannot honour some of them; all are named.
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
    """A line as an object."""
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
    # A group is for the studies of `lens optimize`, whose files can be drawn too.
    own = {name: entry.get(name) for name in ("id", "rubric", "group")}
    fields = {name: value for name, value in entry.items() if name not in own}
    if "text" not in fields:
        raise ValueError("there is no text")
    # A size is no default for who says another one, in whichever way.
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
    """Whether all its strings can be written to a file."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class _Names:
    """Who is called what, as names of files that no system takes for one another."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._repeated: Counter[str] = Counter()

    def take(self, name: str, line: int) -> None:
        """Note whose name it is.

        Raises:
            ValueError: It names no file, or is somebody else's.
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
        """The name, or the first with a number added that nobody has."""
        free = name
        while _key(free) in self._lines:
            # Goes on where it was, as the same line may be there very often.
            self._repeated[name] += 1
            free = f"{name}-{self._repeated[name] + 1}"
        return free


def _key(name: str) -> str:
    # Neither case nor how a letter is composed tells files apart everywhere.
    return unicodedata.normalize("NFC", name).casefold()


def _name(fields: Mapping[str, Any]) -> str:
    said = json.dumps(fields, sort_keys=True).encode()
    return f"{name_of(fields['text'])}-{hashlib.sha256(said).hexdigest()[:6]}"


def _told(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
