"""The `lens` command: one module per subcommand."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_sdk.cli.config import config
from lens_sdk.cli.convert import convert
from lens_sdk.cli.data import data
from lens_sdk.cli.demo import demo
from lens_sdk.cli.evaluate import evaluate
from lens_sdk.cli.generate import generate
from lens_sdk.cli.inspect import inspect
from lens_sdk.cli.pull import pull
from lens_sdk.cli.report_study import report
from lens_sdk.cli.serve import serve
from lens_sdk.cli.train import train
from lens_sdk.models import package_version

__all__ = ["app"]

app = typer.Typer(
    name="lens",
    help="From a request to a judged picture: rewrite, generate, judge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    """From a request to a judged picture: rewrite, generate, judge."""


app.command()(generate)
app.command()(demo)
app.command()(train)
app.command("eval")(evaluate)
app.command()(report)
app.add_typer(data)
app.command()(inspect)
app.command()(convert)
app.command()(pull)
app.command()(serve)
app.command()(config)
