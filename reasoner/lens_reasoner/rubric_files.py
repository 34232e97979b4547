"""Rubrics as JSON files, written by hand or by `save_rubric`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from lens_reasoner.errors import RubricFileError
from lens_reasoner.text_files import read_text
from lens_reasoner.types import Rubric

_FORM = (
    'The format is {"request": "a red cup", "criteria": [{"name": "red", "kind": "color", '
    '"question": "Is the cup red?", "source": "red cup"}]}.'
)


def save_rubric(rubric: Rubric, path: str | Path) -> Path:
    """Write a rubric as readable, editable JSON; missing folders are created.

    Returns:
        The path of the file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    values = rubric.model_dump(mode="json", exclude_defaults=True)
    target.write_text(
        json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return target


def load_rubric(path: str | Path) -> Rubric:
    """Read a rubric.

    Raises:
        RubricFileError: The file is not a rubric; the message names the first invalid field.
        OSError: The file cannot be read.
    """
    try:
        return Rubric.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RubricFileError(
            f"{path} is not a rubric: {where}: {first['msg']}.", hint=_FORM
        ) from error
    except UnicodeDecodeError as error:
        raise RubricFileError(
            f"{path} is not a rubric: it is not UTF-8 text.", hint=_FORM
        ) from error
