"""Displays the progress of a run."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from lens_reasoner import (
    Diagnosed,
    Event,
    FidelityChecked,
    Finished,
    ImageReady,
    Judged,
    Revised,
    RewriteDone,
    RubricDone,
    StageFailed,
    Started,
    Step,
)


class CountColumn(ProgressColumn):
    """Shows steps done out of all steps; empty for tasks of one step."""

    def render(self, task: Task) -> Text:
        """Return the column's text for a task."""
        if task.total is None or task.total <= 1:
            return Text()
        return Text(f"{task.completed:.0f}/{task.total:.0f}")


def progress_bars(console: Console) -> Progress:
    """Make progress bars in the style of all commands."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        CountColumn(),
        TimeElapsedColumn(),
        console=console,
    )


class RunDisplay:
    """Shows the events of runs as bars; use it as a context manager.

    Args:
        console: Where to show the bars.
        rewrites: Whether runs start with rewriting.
    """

    def __init__(self, console: Console, *, rewrites: bool) -> None:
        self._bars = progress_bars(console)
        self._rewrites = rewrites
        self._rewriting: TaskID | None = None
        self._judging: TaskID | None = None
        self._drawing: dict[tuple[int, int], TaskID] = {}
        self._images = 0
        self._judged: set[int] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, what: str) -> TaskID:
        """Show a task of unknown length."""
        return self._bars.add_task(what, total=None)

    def end(self, task: TaskID) -> None:
        """Show a task as done."""
        self._bars.update(task, total=1, completed=1)

    def show(self, event: Event) -> None:
        """Update the bars with one event of a run."""
        match event:
            case Started():
                if self._rewrites:
                    self._rewriting = self.begin("Rewriting")
            case RewriteDone():
                if self._rewriting is not None:
                    self.end(self._rewriting)
            case Step():
                self._step(event)
            case ImageReady():
                self._images += 1
            case Judged():
                self._judge(event.index)
            case StageFailed(index=int() as index) if event.failure.stage == "judge":
                self._judge(index)
            case Revised():
                self.end(self.begin(f"New prompt for round {event.round + 1}"))
            case RubricDone() | FidelityChecked() | Diagnosed() | StageFailed() | Finished():
                pass

    def _step(self, event: Step) -> None:
        key = (event.round, event.index)
        if key not in self._drawing:
            name = f"Drawing, round {event.round + 1}" if event.round else "Drawing"
            self._drawing[key] = self._bars.add_task(name, total=event.total)
        self._bars.update(self._drawing[key], completed=event.step)

    def _judge(self, index: int) -> None:
        # A set, as an image whose judging failed may be judged again.
        self._judged.add(index)
        if self._judging is None:
            self._judging = self._bars.add_task("Judging", total=self._images)
        self._bars.update(self._judging, total=self._images, completed=len(self._judged))
