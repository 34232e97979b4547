"""Runs a prompt study from the command line and reports it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from lens_sdk.cli.console import INTERRUPTED, UNAVAILABLE, err, out, print_json
from lens_sdk.cli.interrupts import first_interrupt_stops
from lens_sdk.cli.optimize_display import StudyDisplay, show_result

if TYPE_CHECKING:
    from lens_prompt_opt import StudyResult
    from lens_sdk.optimize_run import OptimizeRun


def follow_study(run: OptimizeRun) -> StudyResult:
    """Run the study and show its progress; when interrupted, print how to resume it."""
    from lens_prompt_opt import StopSwitch, StudyInterruptedError

    display, stop = StudyDisplay(err, run.order.budget), StopSwitch()
    go_on = f"Resume with: lens optimize --resume {run.folder}"

    async def work() -> StudyResult:
        with first_interrupt_stops(stop.press, display):
            return await run.run(on_progress=display.update, stop=stop)

    try:
        with display.shown():
            return asyncio.run(work())
    except StudyInterruptedError as error:
        if display.notice:
            err.print(f"Stopped. {go_on}", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        err.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
        err.print(go_on, markup=False, soft_wrap=True)
        raise typer.Exit(UNAVAILABLE) from None
    except KeyboardInterrupt:
        err.print(go_on, markup=False, soft_wrap=True)
        raise


def tell_study(run: OptimizeRun, result: StudyResult, *, as_json: bool) -> None:
    """Print the result of a study."""
    if as_json:
        print_json(result.model_dump(mode="json", exclude={"run_dir"}))
        return
    show_result(out, result)
    out.print(str(run.folder / "prompt.json"), markup=False, soft_wrap=True)
    err.print(f"Images and everything else: lens report {run.folder}", markup=False)
