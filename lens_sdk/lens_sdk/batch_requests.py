"""The requests of a batch, read from a file of which every line is checked before any is drawn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lens_reasoner import Generator, ImageRequest, Rubric, UnsupportedSettingError
from lens_reasoner.settings import settings_for
from lens_sdk.errors import BatchFileError
from lens_sdk.file_names import name_of

_JSON_ENDINGS = {".jsonl", ".ndjson"}
_ID = re.compile(r"\w[\w.-]{0,99}")
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
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchFileError(f"{path} cannot be read: {error}.", hint=_HINT) from error
    found: list[BatchRequest] = []
    wrong: dict[int, str] = {}
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _entry(line.strip(), is_json=path.suffix.lower() in _JSON_ENDINGS)
            one = _request(number, entry, defaults or {}, ids)
        except ValidationError as error:
            wrong[number] = "; ".join(_told(detail) for detail in error.errors())
        except ValueError as error:
            wrong[number] = str(error)
        else:
            ids[one.id.casefold()] = number
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
            settings_for(one.request, generator.capabilities, backend=generator.name)
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
        except ValueError as error:
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
    number: int, entry: Mapping[str, Any], defaults: Mapping[str, object], ids: Mapping[str, int]
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
    name = _free(_name(fields), ids) if own["id"] is None else str(own["id"])
    if not _ID.fullmatch(name):
        raise ValueError(
            f"the id {name!r} names no file: up to 100 letters, digits, dots, dashes and "
            "underscores, with a letter or digit first"
        )
    if name.casefold() in ids:
        raise ValueError(f"the id {name!r} is that of line {ids[name.casefold()]} too")
    return BatchRequest(number, name, request, rubric)


def _name(fields: Mapping[str, Any]) -> str:
    said = json.dumps(fields, sort_keys=True).encode()
    return f"{name_of(fields['text'])}-{hashlib.sha256(said).hexdigest()[:6]}"


def _free(name: str, ids: Mapping[str, int]) -> str:
    """The name, or the first with a number added that nobody has."""
    others = (f"{name}-{number}" for number in count(2))
    return next(free for free in chain([name], others) if free not in ids)


def _told(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
