"""Clients of the `openai` library, one per event loop, closed when they are no longer needed."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypeAlias

from pydantic import SecretStr

from lens_reasoner.redaction import keep_out_of_logs

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    Opened: TypeAlias = AsyncGenerator[AsyncOpenAI, None]

# An event loop finalises its async generators before it closes, which closes the client inside. The
# generators are kept in this set, because one without a reference would be finalised in a task that
# the closing loop cancels.
_opened: set[Opened] = set()


class ClientPool:
    """The clients for one server and key, one per event loop.

    A client's connections close with `aclose`, with the event loop, or with this object, whichever
    comes first.
    """

    def __init__(self, base_url: str, key: SecretStr) -> None:
        self._base_url = base_url
        self._key = key
        self._clients: dict[asyncio.AbstractEventLoop, tuple[AsyncOpenAI, Opened]] = {}

    async def client(self) -> AsyncOpenAI:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # Iterate over copies, because threads with other event loops may add entries.
            for ended in [known for known in tuple(self._clients) if known.is_closed()]:
                self._clients.pop(ended, None)
            opened = _open(self._base_url, self._key)
            _opened.difference_update([known for known in tuple(_opened) if _finished(known)])
            _opened.add(opened)
            self._clients[loop] = (await anext(opened), opened)
            weakref.finalize(self, _close_soon, loop, opened).atexit = False
        return self._clients[loop][0]

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next call opens new ones."""
        if known := self._clients.pop(asyncio.get_running_loop(), None):
            await known[1].aclose()


def load_library() -> None:
    """Import the library, which takes a moment, before any call's timeout starts."""
    import openai  # noqa: F401


async def _open(base_url: str, key: SecretStr) -> Opened:
    import openai

    keep_out_of_logs(key)
    client = openai.AsyncOpenAI(api_key=key.get_secret_value(), base_url=base_url, max_retries=0)
    try:
        yield client
    finally:
        await client.close()


def _finished(opened: Opened) -> bool:
    return getattr(opened, "ag_frame", None) is None


def _close_soon(loop: asyncio.AbstractEventLoop, opened: Opened) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(_close(opened)))


async def _close(opened: Opened) -> None:
    await opened.aclose()
