"""A self-contained HTML report of a study."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lens_prompt_opt.errors import RunDirectoryError
from lens_prompt_opt.report.material import Material
from lens_prompt_opt.report.page import finished_page, unfinished_page
from lens_prompt_opt.report.unfinished import Progress
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.run_directory import RESULT_FILE, RunDirectory

__all__ = ["render_run", "report_run", "write_report"]

REPORT_FILE = "report.html"


def write_report(result: StudyResult, path: Path) -> Path:
    """Write the page of a finished study.

    Args:
        result: The study; its images are read from its run directory, if it had one.
        path: The file to write; missing folders are created.
    """
    return _write(path, _finished(result))


def report_run(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run directory, finished or not; the run itself is not changed.

    Args:
        folder: The run directory.
        path: The file to write; None means `report.html` in the run directory.

    Raises:
        RunDirectoryError: There is no run, or it cannot be read.
    """
    target = Path(path) if path is not None else Path(folder) / REPORT_FILE
    return _write(target, render_run(folder))


def render_run(folder: str | Path) -> str:
    """The page of a run directory, finished or not, as HTML.

    Args:
        folder: The run directory.

    Raises:
        RunDirectoryError: There is no run, or it cannot be read.
    """
    folder = Path(folder)
    directory = RunDirectory(folder)
    study = directory.study()
    if not (folder / RESULT_FILE).is_file():
        progress = Progress.read(folder / "calls.jsonl")
        return unfinished_page(study, progress, folder / "pictures")
    try:
        result = StudyResult.model_validate({**directory.result(), "run_dir": folder})
    except ValidationError as error:
        raise RunDirectoryError(
            f"{str(folder / RESULT_FILE)!r} is not the result of a study: {error}.",
            hint="It may be from another version; run the study again to rewrite it.",
        ) from error
    return _finished(result)


def _finished(result: StudyResult) -> str:
    if result.run_dir is None:
        return finished_page(Material(result))
    study = RunDirectory(result.run_dir).study()
    return finished_page(Material(result, study, result.run_dir / "pictures"))


def _write(path: Path, page: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
