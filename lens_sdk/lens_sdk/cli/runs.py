"""`lens runs`: lists, shows and resumes recorded runs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lens_reasoner.errors import RunRecordError
from lens_sdk.cli.client import command_settings, opened, runs_folder
from lens_sdk.cli.console import (
    GeneratorOption,
    JsonOption,
    JudgeOption,
    ReasonerOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.following import Followed, follow, tell
from lens_sdk.cli.generate import DEFAULT_FOLDER
from lens_sdk.cli.options import (
    AllOption,
    OutOption,
    RunsOption,
    ServerOption,
    SystemPromptOption,
)
from lens_sdk.cli.recorded import print_run, recorded_run, recorded_runs, run_values
from lens_sdk.cli.saving import check_output

if TYPE_CHECKING:
    from lens_reasoner import LoopResult
    from lens_sdk.client.types import RunInfo
    from lens_sdk.settings import Settings

runs = typer.Typer(help="List, show and resume recorded runs.", no_args_is_help=True)
LATEST = "latest"
_STYLES = {"finished": "green", "running": "cyan", "failed": "red"}


def _known_ids(incomplete: str) -> list[str]:
    """Return run names for shell completion."""
    from lens_reasoner import RunStore
    from lens_sdk.settings import DEFAULT_RUNS, Settings

    try:
        folder = Settings.load().runs or DEFAULT_RUNS
    except Exception:  # shell completion must never print an error
        return []
    names = [path.name for path in RunStore(folder).folders()]
    return [name for name in reversed(names) if name.startswith(incomplete)]


RunArgument = Annotated[
    str,
    typer.Argument(
        help="The run's name, or a unique beginning or end of it.",
        autocompletion=_known_ids,
    ),
]


@runs.command("list")
@reports_errors
def list_runs(
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=200, help="Maximum number of runs to show.")
    ] = 20,
    base_url: ServerOption = None,
    folder: RunsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest runs, newest first.

    Example: lens runs list --limit 5
    """
    found = asyncio.run(_list(command_settings(base_url=base_url, runs=folder), limit))
    if as_json:
        print_json([info.model_dump(mode="json") for info in found])
        return
    if not found:
        err.print('There are no runs yet. Begin one: lens create "a red apple"', markup=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Run", "Begun", "Status", "Request"):
        table.add_column(heading, no_wrap=heading != "Request", overflow="fold")
    for info in found:
        table.add_row(
            info.id,
            _when(info.created_at),
            Text(info.status, style=_STYLES.get(info.status, "yellow")),
            Text(info.request.text),
        )
    out.print(table)


@runs.command("show")
@reports_errors
def show_run(
    name: RunArgument = LATEST,
    base_url: ServerOption = None,
    folder: RunsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's request, prompts, images and verdicts; by default the latest run.

    Example: lens runs show latest
    """
    settings = command_settings(base_url=base_url, runs=folder)
    info, result = asyncio.run(_show(settings, name))
    where = None if settings.base_url else runs_folder(settings) / info.id
    if as_json:
        print_json(run_values(info, result, where))
    else:
        print_run(out, info, result, where)


@runs.command("resume")
@reports_errors
def resume_run(
    name: RunArgument = LATEST,
    model: GeneratorOption = None,
    reasoner: ReasonerOption = None,
    system_prompt: SystemPromptOption = None,
    judge: JudgeOption = None,
    base_url: ServerOption = None,
    folder: RunsOption = None,
    output: OutOption = DEFAULT_FOLDER,
    keep_all: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Resume an interrupted run; nothing that is recorded is repeated.

    Example: lens runs resume latest
    """
    check_output(output)
    settings = command_settings(
        model=model,
        reasoner=reasoner,
        system_prompt=system_prompt,
        judge=judge,
        base_url=base_url,
        runs=folder,
    )
    followed = asyncio.run(_resume(settings, name))
    tell(out, followed, output, keep_all=keep_all, as_json=as_json)


async def _list(settings: Settings, limit: int) -> list[RunInfo]:
    if not settings.base_url:
        return recorded_runs(runs_folder(settings), limit)
    async with opened(settings) as (lens, _):
        return await lens.runs.list(limit)


async def _show(settings: Settings, name: str) -> tuple[RunInfo, LoopResult]:
    if not settings.base_url:
        return recorded_run(runs_folder(settings) / await _full_name(settings, name))
    async with opened(settings) as (lens, _):
        full = await _full_name(settings, name)
        return await lens.runs.get(full), await lens.runs.result(full)


async def _resume(settings: Settings, name: str) -> Followed:
    started = time.perf_counter()
    full = await _full_name(settings, name)
    async with opened(settings, load=True) as (lens, model):
        loaded = time.perf_counter() - started
        stream = lens.runs.stream(full)
        result = await follow(err, stream, rewrites=settings.reasoner != "none")
        return Followed(result, model, {"load": loaded, **result.timings}, full)


async def _full_name(settings: Settings, name: str) -> str:
    """Return the full name of a run, from its name, a part of it, or "latest"."""
    known = [info.id for info in await _list(settings, 200)]
    if name == LATEST and known:
        return known[0]
    found = [full for full in known if full.startswith(name) or full.endswith(name)]
    if len(found) == 1 or name in found:
        return name if name in found else found[0]
    where = settings.base_url or runs_folder(settings)
    what = f"{len(found)} runs are called" if found else "There is no run"
    raise RunRecordError(f"{what} {name!r} in {where}.", hint="See their names: lens runs list.")


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
