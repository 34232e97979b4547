"""Displays the progress of a batch and its results."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from statistics import fmean

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lens_reasoner import Event, Step
from lens_sdk.amounts import clock, cost
from lens_sdk.batch import Batch
from lens_sdk.batch_requests import BatchRequest
from lens_sdk.batch_results import BatchResult
from lens_sdk.cli.live import live

_WIDTH = 30


class BatchDisplay:
    """Shows a batch's progress, cost and remaining time; prints a line per result.

    Attributes:
        notice: Text shown below the bar.
    """

    def __init__(self, console: Console, batch: Batch, *, max_usd: float | None) -> None:
        self.notice = ""
        self._console = console
        self._batch = batch
        self._max_usd = max_usd
        self._started = time.monotonic()
        self._before = len(batch.results)
        self._drawing = ""

    def shown(self) -> AbstractContextManager[None]:
        """Display progress while the context lasts; without a terminal, only a line per result."""
        return live(self._console, self._render)

    def event(self, one: BatchRequest, event: Event) -> None:
        """Update the display with an event of a request."""
        if isinstance(event, Step):
            self._drawing = f"{one.id}: step {event.step} of {event.total}"

    def result(self, result: BatchResult) -> None:
        """Print the result of a request."""
        number, total = len(self._batch.results), len(self._batch.requests)
        told = result.error or f"{_score(result)}  {self._batch.picture(result)}"
        line = Text(f"{number:>{len(str(total))}}/{total}  ")
        line.append(result.id if result.error else "", style="red").append(
            f": {told}" if result.error else told
        )
        self._console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        batch = self._batch
        done, total = len(batch.results), len(batch.requests)
        rows = tuple(batch.results.values())  # copied first: another thread renders this
        failed = sum(row.error is not None for row in rows)
        facts = (
            f"{done} of {total}",
            f"{failed} failed" if failed else "",
            self._spent(),
            self._left(),
        )
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=total, completed=done, width=_WIDTH)
        table.add_row(bar, Text(" · ".join(filter(None, facts))))
        for line in filter(None, (self._drawing, self.notice)):
            table.add_row("", Text(line, style="dim"))
        return table

    def _spent(self) -> str:
        if self._max_usd is None:
            return cost(self._batch.usd)
        return f"{cost(self._batch.usd) or '$0'} of ${self._max_usd:.2f}"

    def _left(self) -> str:
        """Estimate the remaining time at the current pace; empty before the first result."""
        done = len(self._batch.results) - self._before
        if not done:
            return ""
        pace = (time.monotonic() - self._started) / done
        return f"about {clock(pace * len(self._batch.todo))} left"


def summary(batch: Batch) -> str:
    """Summarise the results in one line."""
    rows = batch.results.values()
    scores = [row.score for row in rows if row.score is not None]
    failed = sum(row.error is not None for row in rows)
    facts = (
        f"{len(rows) - failed} done",
        f"{failed} failed" if failed else "",
        f"{len(batch.todo)} left" if batch.todo else "",
        f"mean score {fmean(scores):.2f}" if scores else "",
        cost(batch.usd),
    )
    return " · ".join(filter(None, facts))


def _score(result: BatchResult) -> str:
    return "unscored" if result.score is None else f"score {result.score:.2f}"
