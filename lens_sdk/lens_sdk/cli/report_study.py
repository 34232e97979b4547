"""`lens report`: a prompt study as one page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import out, reports_errors


@reports_errors
def report(
    run: Annotated[Path, typer.Argument(help="Run directory of a study, finished or not.")],
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="HTML file; report.html in the run if left out."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write the report of a prompt study: one HTML file that needs nothing else."""
    from lens_prompt_opt.report import report_run

    path = report_run(run, output)
    out.print(str(path), markup=False, soft_wrap=True)
    if show:
        webbrowser.open(path.resolve().as_uri())
