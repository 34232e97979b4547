"""Displays the progress of a prompt study and its result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lens_prompt_opt import Budget, GeneratorMatrix, StudyProgress, StudyResult
from lens_sdk.amounts import clock
from lens_sdk.cli.live import live

_PHASES = {
    "calibrating": "measuring the spread",
    "searching": "searching",
    "specialising": "searching for",
    "claiming": "test split",
    "finished": "finished",
}
_WIDTH = 30


class StudyDisplay:
    """Shows a study's progress, cost and accepted edits.

    Args:
        console: The console to use.
        budget: The limits, which set the ends of the bars.
    """

    def __init__(self, console: Console, budget: Budget) -> None:
        self._console = console
        self._budget = budget
        self._state: StudyProgress | None = None
        self._started = time.monotonic()
        self._told: tuple[str, ...] = ()
        self.notice = ""

    def shown(self) -> AbstractContextManager[None]:
        """Display progress while the context lasts; without a terminal, only accepted edits."""
        return live(self._console, self._render)

    def update(self, progress: StudyProgress) -> None:
        """Update the display with the latest progress."""
        self._state = progress
        for edit in progress.accepted[len(self._told) :]:
            self._console.print(
                f"accepted after {progress.images} images: {edit}", markup=False, soft_wrap=True
            )
        self._told = progress.accepted

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        state = self._state
        if state is None:
            return Text("Reading what is there")
        table.add_row("study", f"{_PHASES[state.phase]} {state.generator}".strip())
        for name, spent, limit, text in self._limits(state):
            bar = ProgressBar(total=limit, completed=min(spent, limit), width=_WIDTH)
            table.add_row(name, bar if limit else "", text)
        table.add_row(
            "search",
            f"round {state.rounds}, {state.candidates} prompts, {state.challenges} challenges",
        )
        if state.expected_gain is not None:
            table.add_row(
                "leader", f"{100 * state.expected_gain:+.1f} points by screening, no claim"
            )
        table.add_row("accepted", ", ".join(state.accepted) or "nothing yet")
        for line in (state.note, self.notice):
            if line:
                table.add_row("", Text(line, style="yellow"))
        return table

    def _limits(self, state: StudyProgress) -> Iterator[tuple[str, float, float, str]]:
        budget, elapsed = self._budget, time.monotonic() - self._started
        images, usd = budget.images or 0, budget.usd or 0.0
        yield "pictures", state.images, images, _of(f"{state.images}", f"{images}", images)
        yield "dollars", state.usd, usd, _of(f"{state.usd:.2f}", f"{usd:.2f}", usd)
        if budget.calls is not None:
            yield "calls", state.calls, budget.calls, f"{state.calls} of {budget.calls}"
        seconds = budget.seconds or 0.0
        here = f"{clock(elapsed)} here"
        yield "time", state.seconds, seconds, f"{clock(state.seconds)} of work, {here}"


def show_result(console: Console, result: StudyResult) -> None:
    """Print a study's result: the claim, the edits, the matrix, the costs."""
    if result.claim is not None:
        console.print(f"[bold]{result.claim}[/]", highlight=False)
    elif result.end == "improved":
        console.print("A prompt was accepted, but nothing was left to measure its gain.")
    else:
        console.print("No prompt was proved to be better than the seed prompt.")
        if result.unproven is not None:
            console.print(
                f"The best guess, in unproven.json: {result.unproven.claim}", highlight=False
            )
    if result.best.hypotheses:
        console.print(_edits(result))
    if result.matrix is not None:
        console.print(_matrix(result.matrix))
    console.print(_costs(result))


def _edits(result: StudyResult) -> Table:
    table = Table("section", "edit", "aimed at", "change there", "hypothesis", box=None)
    for edit in result.best.hypotheses:
        known = edit.hypothesis
        change = "" if known.change is None else f"{100 * known.change:+.1f}"
        table.add_row(
            Text(edit.section),
            edit.kind,
            Text(known.failure_mode or ", ".join(known.kinds)),
            change,
            known.status,
        )
    return table


def _matrix(matrix: GeneratorMatrix) -> Table:
    table = Table("prompt for", *matrix.generators, box=None, title="Score on the test split")
    for prompt in matrix.prompts:
        cells = []
        for generator in matrix.generators:
            entry = matrix.entry(prompt, generator)
            score = "-" if entry.score is None else f"{100 * entry.score:.1f}"
            gain = "" if entry.gain is None else f" ({100 * entry.gain:+.1f})"
            cells.append(score + gain)
        table.add_row(Text(prompt), *cells)
    for loss in matrix.losses:
        low, high = (100 * end for end in loss.interval)
        table.add_row(
            Text(f"{loss.prompt} on {loss.generator}"),
            f"loses {100 * loss.loss:.1f} ({low:+.1f} to {high:+.1f})",
        )
    return table


def _costs(result: StudyResult) -> Table:
    table = Table("stage", box=None)
    for name in ("calls", "pictures", "dollars", "seconds"):
        table.add_column(name, justify="right")
    for row in result.cost:
        usd = f"{row.usd:.4f}" + (" + unknown" if row.unpriced else "")
        table.add_row(row.stage, f"{row.calls}", f"{row.images}", usd, f"{row.seconds:.1f}")
    return table


def _of(spent: str, limit: str, known: float) -> str:
    return f"{spent} of {limit}" if known else spent
