"""What a saved image records about how it was made.

`GeneratedImage.save` writes two text chunks into PNG files: `parameters`, in the form that image
viewers and other generators read, and `lens_sdk`, a JSON object. For other formats, that object
goes into a file next to the image. This module writes and reads the object.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lens_reasoner import Candidate, LoopResult, Rewrite
from lens_reasoner.image_metadata import read_picture
from lens_sdk.models import LensModel, package_version

_RECORDED_PACKAGES = ("torch", "diffusers", "transformers")


def save_candidate(
    result: LoopResult, candidate: Candidate, path: str | Path, model: LensModel | None = None
) -> Path:
    """Write one image of a run, with all data about how it was made and judged.

    Args:
        result: The run.
        candidate: One of its candidates.
        path: The file. Missing folders are created; its suffix becomes that of the image's format.
        model: The local model that generated it, if any.
    """
    return candidate.image.save(path, record=run_record(result, candidate, model))


def run_record(
    result: LoopResult, candidate: Candidate, model: LensModel | None = None
) -> dict[str, Any]:
    """Return an image's JSON record: request, rewrite, verdict, model, versions and date."""
    verdict, rewrite = candidate.verdict, rewrite_of(result, candidate)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "request": result.request.model_dump(mode="json"),
        "rewrite": rewrite.model_dump(mode="json") if rewrite else None,
        "rubric": result.rubric.model_dump(mode="json") if result.rubric else None,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "score": candidate.score,
        "model": model.record() if model else None,
        "versions": versions(),
    }


def rewrite_of(result: LoopResult, candidate: Candidate) -> Rewrite | None:
    """Return the rewrite an image was generated from; None if it was the request itself."""
    if result.rewrite is None and not candidate.prompt_version:
        return None
    return result.prompts[candidate.prompt_version]


def read_record(path: str | Path) -> dict[str, Any]:
    """Return the JSON object written by `save_candidate` or `GeneratedImage.save`.

    Raises:
        ImageFileError: The file is not an image, or there is no such object in it or next to it.
    """
    return read_picture(path)[1]


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that affect pixels."""
    found = {"lens-sdk": package_version(), "python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
