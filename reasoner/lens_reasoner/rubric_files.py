"""Rubrics as JSON files, written by hand or by `save_rubric`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from lens_reasoner.errors import RubricFileError
from lens_reasoner.text_files import read_text
from lens_reasoner.types import Rubric

_FORM = (
    'Such a file holds {"request": "a red cup", "criteria": [{"name": "red", "kind": "color", '
    '"question": "Is the cup red?", "source": "red cup"}]}.'
)


def save_rubric(rubric: Rubric, path: str | Path) -> Path:
    """Write a rubric as JSON that is easy to read and to edit; missing folders are made.

    Returns:
        The file.
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
        RubricFileError: If the file is no rubric, naming the first field that is wrong.
        OSError: If it cannot be read.
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
