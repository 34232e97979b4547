"""JSON files of checkpoints, read without torch."""

import json
from pathlib import Path
from typing import Any

from lens_core.errors import CheckpointError


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a component folder.

    Raises:
        CheckpointError: The folder or file is missing or is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; every component folder needs one")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: The file cannot be read as a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content
