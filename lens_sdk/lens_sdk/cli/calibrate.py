"""`lens calibrate`: compares a judge's answers with human answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lens_reasoner import (
    Agreement,
    CalibrationError,
    CalibrationReport,
    Rate,
    TrustRule,
    calibrate,
    load_labels,
    recorded_verdicts,
)
from lens_sdk.cli.client import runs_folder
from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.cli.options import RunsOption
from lens_sdk.cli.recorded import readable_records
from lens_sdk.settings import Settings


@reports_errors
def calibrate_judge(
    labels: Annotated[
        list[Path],
        typer.Argument(
            help="Human answers: JSON files from a page, or CSV files with the columns image, "
            "criterion and label. If several people labelled, the majority counts.",
            exists=True,
            dir_okay=False,
        ),
    ],
    runs: RunsOption = None,
    judged_by: Annotated[
        str | None,
        typer.Option("--judged-by", help="Which judge to compare, if there are several."),
    ] = None,
    min_labels: Annotated[
        int,
        typer.Option(
            "--min-labels", min=1, help="Minimum number of labels before anything is distrusted."
        ),
    ] = 10,
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also save the report: a file ending in .md or .json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a judge with human answers: agreement, and which criteria to distrust.

    Human answers come from the pages of lens demo, lens report and lens serve, or
    from a table. The judge's answers come from the records of runs.

    Example: lens calibrate labels.json --runs lens-demo/runs
    """
    given = [label for path in labels for label in load_labels(path)]
    folder = runs_folder(Settings.load(runs=runs))
    judged = recorded_verdicts(readable_records(folder), judge=judged_by)
    report = calibrate(given, judged, rule=TrustRule(min_labels=min_labels))
    if not report.overall.labels and not report.unclear:
        raise _nothing_compared(report, folder, judged_by)
    if output is not None:
        report.save(output)
    if as_json:
        print_json(_values(report))
    else:
        _print(report)


def _nothing_compared(
    report: CalibrationReport, folder: Path, judged_by: str | None
) -> CalibrationError:
    if not report.unmatched:
        return CalibrationError(
            "There are no labels yet.", hint="Answer some criteria on a page and download them."
        )
    by = "" if judged_by is None else f" by {judged_by!r}"
    return CalibrationError(
        f"None of the {report.unmatched} labels is about a picture and criterion that were "
        f"judged{by} in the runs of {folder}.",
        hint="Name the runs whose pictures were labelled: --runs lens-demo/runs for the page of "
        "lens demo, --runs FOLDER/runs for that of lens serve, or the folder of one run.",
    )


def _print(report: CalibrationReport) -> None:
    out.print(Text(f"Judge: {', '.join(report.judges) or 'none'}", style="bold"))
    out.print(
        f"{report.overall.labels} labels compared, {report.unclear} unclear, "
        f"{report.unmatched} without a verdict. Intervals: 95 %."
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Criteria", "Agreement", "True yes", "True no", "Undecided"):
        table.add_column(heading, overflow="fold")
    for group in (report.overall, *report.kinds):
        rates = (group.answered, group.true_positive_rate, group.true_negative_rate)
        table.add_row(Text(group.group), *map(str, rates), f"{group.undecided} of {group.labels}")
    out.print(table)
    for distrusted in report.distrusted:
        line = Text("Distrust ", style="bold red").append(distrusted.group, style="default")
        out.print(line.append(f": {'; '.join(distrusted.reasons)}", style="dim"), soft_wrap=True)
    if not report.distrusted:
        out.print("Nothing is distrusted.")
    err.print(Text(str(report.rule), style="dim"))


def _values(report: CalibrationReport) -> dict[str, Any]:
    """Return the report and its rates as JSON values."""
    return {
        **report.model_dump(mode="json"),
        "overall": _group(report.overall),
        "kinds": [_group(group) for group in report.kinds],
        "criteria": [_group(group) for group in report.criteria],
    }


def _group(group: Agreement) -> dict[str, Any]:
    return {
        **group.model_dump(mode="json"),
        "labels": group.labels,
        "agreement": _rate(group.answered),
        "true_positive_rate": _rate(group.true_positive_rate),
        "true_negative_rate": _rate(group.true_negative_rate),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {"value": rate.value, "interval": rate.interval, "hits": rate.hits, "of": rate.total}
