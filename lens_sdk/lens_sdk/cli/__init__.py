"""The `lens` command; each subcommand has its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_sdk.cli.batch import batch
from lens_sdk.cli.bench import bench
from lens_sdk.cli.calibrate import calibrate_judge
from lens_sdk.cli.config import config
from lens_sdk.cli.convert import convert
from lens_sdk.cli.create import create
from lens_sdk.cli.data import data
from lens_sdk.cli.demo import demo
from lens_sdk.cli.doctor import doctor
from lens_sdk.cli.evaluate import evaluate
from lens_sdk.cli.generate import generate
from lens_sdk.cli.inspect import inspect
from lens_sdk.cli.judge import judge
from lens_sdk.cli.mcp import mcp
from lens_sdk.cli.memory import memory
from lens_sdk.cli.optimize import optimize
from lens_sdk.cli.pull import pull
from lens_sdk.cli.report_study import report
from lens_sdk.cli.reproduce import reproduce
from lens_sdk.cli.rewrite import rewrite
from lens_sdk.cli.runs import runs
from lens_sdk.cli.serve import serve
from lens_sdk.cli.train import app as train
from lens_sdk.models import package_version

__all__ = ["app"]

EPILOG = (
    'Start with: lens doctor, then lens create "two red apples left of a blue cup". '
    "Exit codes: 0 done, 1 an error, 2 a wrong command line, 3 the request was refused, 4 below "
    "--min-score or a reproduction that differs, 5 a server or provider is busy or unreachable, "
    "130 interrupted."
)

PICTURES, MODELS, SETUP = "Images", "Models and training", "Setup and serving"

app = typer.Typer(
    name="lens",
    help="From a request to a judged image: rewrite, generate, judge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lens-sdk {package_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """From a request to a judged image: rewrite, generate, judge."""


for command in (create, batch, generate, rewrite, judge, reproduce):
    app.command(rich_help_panel=PICTURES)(command)
app.command("calibrate", rich_help_panel=PICTURES)(calibrate_judge)
app.add_typer(runs, name="runs", rich_help_panel=PICTURES)
app.command(rich_help_panel=PICTURES)(demo)
app.command(rich_help_panel=MODELS)(pull)
app.command(rich_help_panel=MODELS)(inspect)
app.command(rich_help_panel=MODELS)(convert)
app.command("eval", rich_help_panel=MODELS)(evaluate)
app.command(rich_help_panel=MODELS)(optimize)
app.command(rich_help_panel=MODELS)(report)
app.add_typer(data, rich_help_panel=MODELS)
app.add_typer(train, name="train", rich_help_panel=MODELS)
app.command(rich_help_panel=SETUP)(doctor)
app.command(rich_help_panel=SETUP)(config)
app.command(rich_help_panel=SETUP)(serve)
app.command(rich_help_panel=SETUP)(mcp)
app.command(rich_help_panel=SETUP)(bench)
app.command(rich_help_panel=SETUP)(memory)
