"""Saves the images of a run."""

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
    """Save the best image of a run, or all of them.

    Args:
        result: The run.
        output: A folder, or a file for the best image.
        model: The local model that generated them, if any.
        keep_all: Whether to save every image.

    Returns:
        Where each image was saved, by its position in `result.candidates`.

    Raises:
        NothingDrawnError: There is no image.
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
    """Return the path for an image: the requested file, or a free name in the folder.

    Args:
        output: A folder, or a file for the image.
        name: The file name to use in a folder.
    """
    return output if _names_picture(output) else _free(output / name)


def check_output(output: Path) -> None:
    """Check that images can be saved there, before any time or money is spent.

    Args:
        output: A folder, or a file for an image; it need not exist.

    Raises:
        OSError: The folder cannot be created or written to.
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
    """Return the path for the best image; in a folder, it is named after the request."""
    assert result.best is not None
    suffix = SUFFIXES[result.best.image.media_type]
    return place(output, f"{name_of(text)}-{_number(result.best)}{suffix}")


def _number(candidate: Candidate) -> int:
    """Return the seed; if the generator takes none, the image's number in the run."""
    return candidate.index if candidate.image.seed is None else candidate.image.seed


def _free(path: Path) -> Path:
    """Return the path, or the first unused one with a number appended."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate
