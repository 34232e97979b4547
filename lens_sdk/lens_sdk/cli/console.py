"""What the commands share: consoles, options and how errors are told."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn, ParamSpec

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from lens_core.errors import LensCoreError
from lens_core.sizes import read_size
from lens_reasoner import ReasonerError
from lens_sdk.error_kinds import may_work_later
from lens_sdk.models import DEFAULT_MODEL, MODEL_CHOICES

P = ParamSpec("P")

FAILED = 1
"""Exit code of an error that is told in one message; 2 is the command line's own."""

REFUSED = 3
"""Exit code of a request that the reasoner refused."""

BELOW = 4
"""Exit code of a picture that scored less than was asked for."""

UNAVAILABLE = 5
"""Exit code of a server or provider that is busy, too slow or away: later it may work."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

out = Console(highlight=False)
"""Results."""

err = Console(stderr=True, highlight=False)
"""Progress and errors, so that results can be piped."""

SETTING = "from the settings"
"""Default of options that a setting stands behind."""

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help=f"{DEFAULT_MODEL}, or the folder of a Lens model.")
]
GeneratorOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help=f"What draws: {MODEL_CHOICES}.", show_default=SETTING),
]
ReasonerOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner",
        help="Who rewrites: auto, nano, local, gguf, openai:MODEL or none.",
        show_default=SETTING,
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge", help="Who judges: auto, nano, openai:MODEL or none.", show_default=SETTING
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", "-s", help="Seed of the first picture; random if left out.")
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", help="Sampler steps; the model's own if left out.")
]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="Guidance scale; 1 is none.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command end with a message and an exit code instead of a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with reported():
            command(*args, **kwargs)

    return run


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors that are meant for the user into a message and an exit code."""
    try:
        yield
    except ReasonerError as error:
        _fail(error.message, error.hint, UNAVAILABLE if may_work_later(error) else FAILED)
    except LensCoreError as error:
        _fail(str(error))
    except ValidationError as error:
        _fail("; ".join(_problem(dict(detail)) for detail in error.errors()))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        err.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    """Width and height of `WxH`, or of a Lens bucket such as `16:9@1440`.

    Raises:
        typer.BadParameter: It is not written like that.
        InvalidSizeError: A bucket that does not exist.
    """
    if size is None:
        return None, None
    if "@" in size:
        height, width = read_size(size)
        return width, height
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", size)
    if found is None:
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT, such as 128x128, or 16:9@1440")
    return int(found[1]), int(found[2])


def _problem(detail: dict[str, object]) -> str:
    where = ".".join(str(part) for part in detail["loc"])  # type: ignore[attr-defined]
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where} {detail['input']!r}: {message}" if where else message


def _fail(message: str, hint: str = "", code: int = FAILED) -> NoReturn:
    sys.stdout.flush()
    err.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(escape(hint), soft_wrap=True)
    raise typer.Exit(code)
