"""Pictures of a run on their way into files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lens_reasoner import Candidate, LoopResult
from lens_reasoner.media import SUFFIXES
from lens_sdk.errors import NothingDrawnError
from lens_sdk.file_names import name_of
from lens_sdk.models import LensModel


def save_pictures(
    result: LoopResult, output: Path, model: LensModel | None, *, keep_all: bool
) -> dict[int, Path]:
    """Save the best picture of a run, or all of them.

    Args:
        result: The run.
        output: A folder, or the file of the best one.
        model: The local model that drew them, if one did.
        keep_all: Save every picture.

    Returns:
        Where each was saved, by its position in `result.candidates`.

    Raises:
        NothingDrawnError: There is none.
    """
    from lens_sdk.metadata import save_candidate

    if result.best is None or result.best_index is None:
        raise NothingDrawnError(result.stop_reason)
    path = _target(output, result.request.text, result)
    saved = {result.best_index: save_candidate(result, result.best, path, model)}
    if keep_all:
        for index, candidate in enumerate(result.candidates):
            if index != result.best_index:
                beside = path.with_stem(f"{path.stem}-{_number(candidate)}")
                beside = _free(beside.with_suffix(SUFFIXES[candidate.image.media_type]))
                saved[index] = save_candidate(result, candidate, beside, model)
    return saved


def place(output: Path, name: str) -> Path:
    """Where one picture goes: the file that was asked for, or a free name in the folder.

    Args:
        output: A folder, or the file of a picture.
        name: What to call it in a folder.
    """
    return output if _names_picture(output) else _free(output / name)


def check_output(output: Path) -> None:
    """See that something can be saved there, before it costs time or money.

    Args:
        output: A folder, or the file of a picture; it need not exist.

    Raises:
        OSError: The folder cannot be made or written.
    """
    folder = output.parent if _names_picture(output) else output
    found = next(at for at in (folder, *folder.absolute().parents) if at.exists())
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    if not os.access(found, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(found))


def _names_picture(output: Path) -> bool:
    return output.suffix.lower() in {".jpeg", *SUFFIXES.values()}


def _target(output: Path, text: str, result: LoopResult) -> Path:
    """Where the best picture goes, named after the request in a folder."""
    assert result.best is not None
    suffix = SUFFIXES[result.best.image.media_type]
    return place(output, f"{name_of(text)}-{_number(result.best)}{suffix}")


def _number(candidate: Candidate) -> int:
    """The seed, or where the generator takes none, the picture's number in the run."""
    return candidate.index if candidate.image.seed is None else candidate.image.seed


def _free(path: Path) -> Path:
    """The path, or the first with a number added that does not exist yet."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate
