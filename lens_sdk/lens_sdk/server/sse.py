"""Server-sent events, and cancellation of work when a client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import StreamingResponse

from lens_sdk.server.shared import Entry

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client disconnected before it received an answer."""


class EventStream(StreamingResponse):
    """A response of server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[str]) -> None:
        # Keeps buffering proxies from holding events back.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(frames, headers=headers)


def frame(entry: Entry | None) -> str:
    """Format an event for sending; None gives a keep-alive comment that clients ignore."""
    if entry is None:
        return ": still here\n\n"
    number = "" if entry.number is None else f"id: {entry.number}\n"
    return f"{number}event: {entry.kind}\ndata: {entry.data}\n\n"


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work` as long as the client is connected.

    Args:
        request: The client's request, whose body has already been read.
        work: The work; cancelled when the client disconnects.

    Raises:
        ClientLeftError: The client disconnected.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
