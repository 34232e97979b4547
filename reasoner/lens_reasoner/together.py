"""Work done side by side, of which nothing goes on when a part has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order.

    The first error ends what is still under way, which may cost money, and is raised by itself.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            begun = [tasks.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise first_error(failed)  # noqa: B904 - its own cause says more than the group
    return [task.result() for task in begun]


def first_error(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, however deep it lies."""
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
