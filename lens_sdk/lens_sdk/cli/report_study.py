"""`lens report`: a prompt study or recorded runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_reasoner import RunStore
from lens_reasoner.record import EVENTS
from lens_sdk.cli.console import JsonOption, out, print_json, reports_errors
from lens_sdk.cli.demo import show_page
from lens_sdk.cli.options import OpenOption
from lens_sdk.cli.recorded import readable_records
from lens_sdk.errors import SdkError

REPORT_FILE = "report.html"
_HINT = "Name what was --out of lens optimize, or a folder of runs such as lens-runs."


@reports_errors
def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a prompt study, finished or not, of a recorded run, or of several runs."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=f"HTML file; {REPORT_FILE} in the folder if left out."),
    ] = None,
    open_page: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a prompt study or recorded runs as a page: one HTML file that needs nothing else.

    The verdicts on a page of runs can be labelled, for lens calibrate.

    Example: lens report lens-runs --open
    """
    if (run / EVENTS).is_file() or RunStore(run).folders():
        path = _runs_page(run, output or run / REPORT_FILE)
    else:
        from lens_prompt_opt.report import report_run

        _check_study(run)
        path = report_run(run, output)
    if as_json:
        print_json({"page": str(path)})
    else:
        out.print(str(path), markup=False, soft_wrap=True)
    if open_page:
        show_page(path)


def _check_study(folder: Path) -> None:
    from lens_prompt_opt.run_directory import STUDY_FILE

    if not folder.is_dir():
        raise SdkError(f"There is no folder {folder}.", hint=_HINT)
    if not (folder / STUDY_FILE).is_file():
        raise SdkError(
            f"{folder} holds neither a prompt study nor recorded runs: no {STUDY_FILE}.", hint=_HINT
        )


def _runs_page(run: Path, path: Path) -> Path:
    from lens_sdk.pages.runs import render_runs

    page = render_runs(readable_records(run), runs=str(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
