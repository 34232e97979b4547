"""Concurrent work that stops as a whole when one part fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    On the first error the others are cancelled, because they may cost money, and that error is
    raised on its own.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            begun = [tasks.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise first_error(failed)  # noqa: B904 - its own cause says more than the group
    return [task.result() for task in begun]


def first_error(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group, at any depth."""
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
