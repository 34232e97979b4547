"""What a saved picture says about how it was made.

`GeneratedImage.save` writes two text chunks into PNG files: `parameters`, in the form that image
viewers and other generators read, and `lens_sdk`, one JSON object; for other formats that object
goes into a file beside the picture. This module fills it and reads it back.
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
    """Write one picture of a run with everything that made and judged it.

    Args:
        result: The run.
        candidate: One of its candidates.
        path: The file; missing folders are made, and its ending becomes that of the picture.
        model: The local model that drew it, if one did.
    """
    return candidate.image.save(path, record=run_record(result, candidate, model))


def run_record(
    result: LoopResult, candidate: Candidate, model: LensModel | None = None
) -> dict[str, Any]:
    """The JSON values of a picture's run: request, rewrite, verdict, model, versions and date."""
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
    """What a picture was drawn from; None if that was the request's own words."""
    if result.rewrite is None and not candidate.prompt_version:
        return None
    return result.prompts[candidate.prompt_version]


def read_record(path: str | Path) -> dict[str, Any]:
    """The JSON object of a picture that `save_candidate` or `GeneratedImage.save` wrote.

    Raises:
        ImageFileError: It is no picture file or has no such object inside or beside it.
    """
    return read_picture(path)[1]


def versions() -> dict[str, str]:
    """Versions of this distribution, Python and the libraries that set the pixels."""
    found = {"lens-sdk": package_version(), "python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
