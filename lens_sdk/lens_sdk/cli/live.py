"""Live display for commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live


@contextmanager
def live(console: Console, render: Callable[[], RenderableType]) -> Iterator[None]:
    """Redraw regularly while the context lasts; without a terminal, show nothing."""
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=render, console=console, refresh_per_second=4, transient=True):
        yield
