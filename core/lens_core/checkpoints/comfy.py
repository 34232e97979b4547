"""Comfy's `comfy_quant` notes: JSON bytes beside a packed tensor that name its format."""

import json
from pathlib import Path

import torch
from torch import Tensor

from lens_core.errors import CheckpointError


def note_bytes(format_name: str) -> Tensor:
    """The note of a format, uint8."""
    return torch.frombuffer(
        bytearray(json.dumps({"format": format_name}).encode()), dtype=torch.uint8
    )


def check_note(source: Path, name: str, note: Tensor, formats: tuple[str, ...]) -> None:
    """Check the note of the tensor called `name`.

    Raises:
        CheckpointError: It is no JSON or names another format.
    """
    try:
        stated = json.loads(bytes(note.flatten().view(torch.uint8).numpy()))["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source}: {name}.comfy_quant says no format") from error
    if stated not in formats:
        raise CheckpointError(f"{source}: {name} is packed as {stated!r}; {formats} can be read")
