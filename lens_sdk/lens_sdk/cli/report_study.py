"""`lens report`: writes a prompt study or recorded runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_reasoner import RunStore
from lens_reasoner.record import EVENTS
from lens_sdk.cli.console import FAILED, JsonOption, out, print_json, reports_errors
from lens_sdk.cli.demo import show_page
from lens_sdk.cli.options import OpenOption
from lens_sdk.cli.recorded import readable_records
from lens_sdk.errors import SdkError

REPORT_FILE = "report.html"
_HINT = "Give the --out folder of lens optimize, or a folder of runs such as lens-runs."


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
        typer.Option("--out", "-o", help=f"HTML file. Default: {REPORT_FILE} in the folder."),
    ] = None,
    open_page: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a prompt study or recorded runs as one self-contained HTML page.

    The verdicts on a page of runs can be labelled, for lens calibrate. If one of several runs
    cannot be read, the page shows the others and the exit code is 1.

    Example: lens report lens-runs --open
    """
    left_out: list[str] = []
    if (run / EVENTS).is_file() or RunStore(run).folders():
        path = _runs_page(run, output or run / REPORT_FILE, left_out)
    else:
        from lens_prompt_opt.report import report_run

        _check_study(run)
        path = report_run(run, output)
    if as_json:
        print_json({"page": str(path), "left_out": left_out})
    else:
        out.print(str(path), markup=False, soft_wrap=True)
    if open_page:
        show_page(path)
    if left_out:
        raise typer.Exit(FAILED)


def _check_study(folder: Path) -> None:
    from lens_prompt_opt.run_directory import STUDY_FILE

    if not folder.is_dir():
        raise SdkError(f"There is no folder {folder}.", hint=_HINT)
    if not (folder / STUDY_FILE).is_file():
        raise SdkError(
            f"{folder} holds neither a prompt study nor recorded runs: no {STUDY_FILE}.", hint=_HINT
        )


def _runs_page(run: Path, path: Path, left_out: list[str]) -> Path:
    from lens_sdk.pages.runs import render_runs

    page = render_runs(readable_records(run, left_out), runs=str(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
