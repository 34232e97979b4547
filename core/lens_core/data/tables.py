"""Tables of images and captions: JSON lines, CSV and Parquet."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lens_core.errors import ParameterError

Row = Mapping[str, Any]

_IMAGE = ("image", "file_name", "path")
_CAPTION = ("caption", "text", "prompt")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table.

    Raises:
        ParameterError: The file is missing, has an unknown suffix, is not UTF-8, has a line that is
            not JSON, or is Parquet and pyarrow is not installed.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ParameterError(f"{path} is not a table; known suffixes: {', '.join(readers)}")
    if not path.is_file():
        raise ParameterError(f"{path} does not exist")
    return _decoded(reader(path), path)


def find_image(row: Row, path: Path, number: int) -> str:
    """Return the path of a row's image.

    Raises:
        ParameterError: The row has none.
    """
    for name in _IMAGE:
        if isinstance(row.get(name), str) and row[name]:
            return str(row[name])
    raise ParameterError(
        f"{path} row {number} names no picture; it needs one of {', '.join(_IMAGE)}, and has "
        f"{', '.join(map(str, row))}"
    )


def captions_of(row: Row) -> dict[str, str]:
    """Return the captions of a row by kind, without empty ones."""
    found: dict[str, str] = {}
    for name in _CAPTION:
        if isinstance(row.get(name), str):
            found["caption"] = row[name]
            break
    found |= {
        str(name).removeprefix("caption_"): value
        for name, value in row.items()
        if str(name).startswith("caption_") and isinstance(value, str)
    }
    if isinstance(row.get("captions"), Mapping):
        found |= {str(k): v for k, v in row["captions"].items() if isinstance(v, str)}
    return {kind: text.strip() for kind, text in found.items() if text.strip()}


def _decoded(rows: Iterator[Row], path: Path) -> Iterator[Row]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ParameterError(f"{path} cannot be read as CSV: {error}") from error


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ParameterError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ParameterError(f"{path} line {number} is not a JSON object")
            yield row


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ParameterError(
            f"{path} needs pyarrow: pip install 'lens-sdk[data]', or give JSON lines or CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ParameterError(f"{path} cannot be read as Parquet: {error}") from error
