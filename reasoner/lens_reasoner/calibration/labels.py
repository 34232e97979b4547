"""Human labels, read from a file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lens_reasoner.errors import CalibrationError
from lens_reasoner.text_files import read_text
from lens_reasoner.types import Answer, Value

_ANSWERS: dict[str, Answer] = {
    **dict.fromkeys(("yes", "y", "true", "1", "1.0"), "yes"),
    **dict.fromkeys(("no", "n", "false", "0", "0.0"), "no"),
    **dict.fromkeys(("cannot_tell", "cannot tell", "unsure", "?"), "cannot_tell"),
}
_IMAGE, _CRITERION, _LABEL = (
    ("image_sha256", "sha256", "image"),
    ("criterion",),
    ("label", "answer"),
)
_FORM = (
    "Each label needs an image (its SHA-256, or the first characters of it), a criterion (its "
    "name) and a label (yes, no or cannot_tell); an annotator is optional."
)


class HumanLabel(Value):
    """One person's answer to one criterion about one image.

    Attributes:
        image: SHA-256 of the image in hexadecimal, or a unique prefix of it.
        criterion: Name of the criterion.
        label: The answer.
        annotator: Who answered; may be empty.
    """

    image: str
    criterion: str
    label: Answer
    annotator: str = ""


def load_labels(path: str | Path) -> tuple[HumanLabel, ...]:
    """Read labels from a CSV file with a header, or a JSON file.

    The columns or JSON members are `image` (or `sha256`, `image_sha256`), `criterion`, `label` (or
    `answer`: yes/no/cannot_tell, true/false, 1/0) and optionally `annotator`; others are ignored.
    JSON is a list of such objects, or an object whose `labels` is that list. Rows with an empty
    label are skipped.

    Raises:
        CalibrationError: A row is invalid; the message names it and says what is wrong.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not UTF-8 text.", hint=_FORM) from error
    rows = _json_rows(path, text) if path.suffix == ".json" else list(_csv_rows(path, text))
    labels = [_label(path, number, row) for number, row in enumerate(rows, start=1)]
    return tuple(label for label in labels if label is not None)


def _csv_rows(path: Path, text: str) -> list[Mapping[str, Any]]:
    # Imported here because few programs read labels and the import is slow.
    import csv

    reader = csv.DictReader(io.StringIO(text))
    columns = {(name or "").strip().casefold() for name in reader.fieldnames or ()}
    for names in (_IMAGE, _CRITERION, _LABEL):
        if not columns.intersection(names):
            raise CalibrationError(f"{path} has no column {names[-1]!r}.", hint=_FORM)
    return list(reader)


def _json_rows(path: Path, text: str) -> list[Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON: {error}.", hint=_FORM) from error
    rows = data.get("labels") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise CalibrationError(f"{path} does not hold a list of labels.", hint=_FORM)
    return rows


def _label(path: Path, number: int, row: Any) -> HumanLabel | None:
    where = f"{path}, label {number}"
    if not isinstance(row, Mapping):
        raise CalibrationError(f"{where} is not an object.", hint=_FORM)
    values = {str(name).strip().casefold(): _text(value) for name, value in row.items()}

    def first(names: tuple[str, ...]) -> str:
        return next((values[name] for name in names if values.get(name)), "")

    image, criterion, given = first(_IMAGE), first(_CRITERION), first(_LABEL)
    if not given:
        return None
    answer = _ANSWERS.get(given.casefold())
    if answer is None:
        raise CalibrationError(f"{where}: {given!r} is not a label.", hint=_FORM)
    if not image or not criterion:
        raise CalibrationError(f"{where} has no image or no criterion.", hint=_FORM)
    try:
        return HumanLabel(
            image=image.casefold(),
            criterion=criterion,
            label=answer,
            annotator=values.get("annotator", ""),
        )
    except ValidationError as error:
        raise CalibrationError(f"{where}: {error}", hint=_FORM) from error


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, list) else str(value).strip()
