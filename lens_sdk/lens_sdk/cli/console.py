"""Shared by all commands: consoles, options and error messages."""

from __future__ import annotations

import functools
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, ParamSpec

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from lens_core.errors import HubUnreachableError, LensCoreError
from lens_core.packaged import PACKAGED_MODELS
from lens_core.sizes import read_size
from lens_reasoner import ReasonerError
from lens_sdk.error_kinds import may_work_later
from lens_sdk.errors import MissingExtraError
from lens_sdk.models import LOCAL_PACKAGES, MODEL_CHOICES

P = ParamSpec("P")

_FILE_HINT = "Name another file or folder, or let this one be read and written."

FAILED = 1
"""Exit code of an error reported as one message; 2 is for errors on the command line."""

REFUSED = 3
"""Exit code if the reasoner refused the request."""

BELOW = 4
"""Exit code if an image scored less than the required score."""

UNAVAILABLE = 5
"""Exit code if a server or provider is busy, too slow or unreachable; may work later."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

out = Console(highlight=False)
"""Console for results."""

err = Console(stderr=True, highlight=False)
"""Console for progress and errors, separate so that results can be piped."""

SETTING = "from the settings"
"""Default shown for options whose value comes from the settings."""

PARTS, DRAWING, LIMITS = "Model, reasoner and judge", "Generation", "Limits"
"""Headings for groups of options in the help; other options get the default heading."""

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=f"The model: {', '.join(PACKAGED_MODELS)}, or a Lens model's folder.",
        rich_help_panel=PARTS,
    ),
]
GeneratorOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"The image model: {MODEL_CHOICES}.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
REASONER_HELP = "The reasoner, which rewrites the request: "
JUDGE_HELP = "The judge: "
ReasonerOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner",
        help=f"{REASONER_HELP}auto, nano, local, gguf, openai:MODEL or none.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help=f"{JUDGE_HELP}auto, nano, openai:MODEL or none.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        "-s",
        min=0,
        help="Seed of the first image; the others count up from it. The same seed gives the same "
        "image. Default: random.",
        rich_help_panel=DRAWING,
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Sampling steps per image. Default: the model's own.",
        rich_help_panel=DRAWING,
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        help="Guidance scale: how closely to follow the prompt, such as 4; 1 turns guidance off. "
        "Default: the model's own.",
        rich_help_panel=DRAWING,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON, and nothing else on standard output."),
]


def print_json(value: Any) -> None:
    """Print a value as one JSON document; in colour on a terminal."""
    # ASCII escapes can be read in any output encoding.
    escaped = not out.encoding.startswith("utf")
    out.print_json(json.dumps(value, ensure_ascii=False), ensure_ascii=escaped)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command exit with a message and an exit code instead of a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with reported():
            command(*args, **kwargs)

    return run


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings for the user without the line of code that they come from."""
    usual = warnings.formatwarning

    def told(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if issubclass(category, UserWarning):
            return f"Warning: {message}\n"
        return usual(message, category, *place, **line)

    warnings.formatwarning = told
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors for the user into a message and an exit code."""
    try:
        with _plain_warnings():
            yield
    except ReasonerError as error:
        _fail(error.message, error.hint, UNAVAILABLE if may_work_later(error) else FAILED)
    except LensCoreError as error:
        _fail(
            _core_message(error),
            code=UNAVAILABLE if isinstance(error, HubUnreachableError) else FAILED,
        )
    except ValidationError as error:
        _fail(_problems(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in LOCAL_PACKAGES:
            raise
        missing = MissingExtraError("local", (package,))
        _fail(missing.message, missing.hint)
    except BrokenPipeError:
        raise  # the reader of the pipe has closed it
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.", _FILE_HINT)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    """Return width and height for `WxH`, or for a Lens bucket such as `16:9@1440`.

    Raises:
        typer.BadParameter: The format is invalid, or there is no such bucket.
    """
    if size is None:
        return None, None
    if "@" in size:
        try:
            height, width = read_size(size)
        except LensCoreError as error:
            raise typer.BadParameter(str(error), param_hint="--size") from error
        return width, height
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", size)
    if found is None:
        raise typer.BadParameter(
            f"{size!r} is not WIDTHxHEIGHT, such as 128x128, or 16:9@1440", param_hint="--size"
        )
    return int(found[1]), int(found[2])


def _core_message(error: LensCoreError) -> str:
    """Return a core error's message, with pydantic's validation report reworded."""
    message, cause = str(error), error.__cause__
    if isinstance(cause, ValidationError):
        return message.replace(str(cause), _problems(cause))
    return message


def _problems(error: ValidationError) -> str:
    return "; ".join(_problem(dict(detail)) for detail in error.errors())


def _problem(detail: dict[str, object]) -> str:
    where = ".".join(str(part) for part in detail["loc"])  # type: ignore[attr-defined]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "unknown setting"
    return f"{where} {detail['input']!r}: {message}" if where else message


def _fail(message: str, hint: str = "", code: int = FAILED) -> NoReturn:
    sys.stdout.flush()
    err.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(escape(hint), soft_wrap=True)
    raise typer.Exit(code)
