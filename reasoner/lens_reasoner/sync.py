"""Calling async code from synchronous code, including notebooks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to completion on a background event loop and return its result.

    Unlike `asyncio.run`, this works inside a running loop, such as a notebook's. An interrupt
    (Ctrl-C) cancels the coroutine.

    Raises:
        RuntimeError: The caller itself runs on the background loop.
    """
    loop = _background_loop()
    try:
        inside = asyncio.get_running_loop() is loop
    except RuntimeError:
        inside = False
    if inside:
        coroutine.close()
        raise RuntimeError("run_sync was called from async code that it runs; use await there")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="lens-reasoner-loop", daemon=True
            ).start()
        return _loop


def _forget_loop() -> None:
    """Reset after a fork: the child has no loop thread, and the lock may look held."""
    global _loop, _starting
    _loop, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)
