"""Handles Ctrl-C during calls that cost money or time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Noticing(Protocol):
    """A display that can show a notice."""

    notice: str


@contextmanager
def first_interrupt_stops(press: Callable[[], object], display: Noticing) -> Iterator[None]:
    """Let calls in flight finish on Ctrl-C, as they are paid for; a second Ctrl-C aborts them."""
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        press()
        display.notice = "Finishing the calls in flight; press Ctrl-C again to stop at once."
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
