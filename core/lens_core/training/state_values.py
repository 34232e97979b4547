"""The values a training state keeps beside its tensors, in `state.json`, validated when read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from lens_core.errors import CheckpointError, LensCoreError, first_line

VALUES = "state.json"


class ProcessState(BaseModel):
    """What one process needs to resume."""

    model_config = ConfigDict(frozen=True, strict=True)

    rng: dict[str, Any]
    """See `generator_states`."""
    data: dict[str, Any] = {}
    """See `BatchSource.state`."""


class StateValues(BaseModel):
    """The content of `state.json`; fields that a stage or an older version lacks have defaults."""

    model_config = ConfigDict(frozen=True, strict=True)

    step: NonNegativeInt
    """Steps done."""
    skipped: NonNegativeInt = 0
    """Of these, steps whose gradients were not finite."""
    batches: NonNegativeInt | None = None
    """Batches that all processes together have read."""
    fixed: dict[str, Any] = {}
    """Settings that give the tensors their meaning; see `Saved.require`."""
    processes: list[ProcessState] = []
    """By rank."""
    rng: dict[str, Any] | None = None
    """For a stage that runs in one process; see `generator_states`."""


def read_values(file: Path) -> StateValues:
    """The values of a state.

    Raises:
        CheckpointError: The file is missing, truncated or not a JSON object, or a field is
            invalid.
    """
    try:
        return StateValues.model_validate(json.loads(file.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, _reason(error)) from error


@contextmanager
def restoring(file: Path, field: str) -> Iterator[None]:
    """Name the file and the field if something cannot be restored from what was read.

    Raises:
        CheckpointError: In place of what another library raises.
    """
    try:
        yield
    except LensCoreError:
        raise
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise _damaged(file, f"{field}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged ({what}); remove {file.parent} to go on from an older state or anew"
    )
