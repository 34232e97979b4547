"""Connections that are closed if a request does not arrive in time."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def timely(seconds: float) -> type[asyncio.Protocol]:
    """Create a protocol class for `uvicorn.Config(http=...)`.

    Args:
        seconds: How long the head of a request may take to arrive. Connections that exceed it are
            closed within twice the time. `Guard` limits the time for bodies.
    """
    return type("Timely", (_Timely,), {"seconds": seconds})


class _Timely(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    seconds: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._transport = transport
        self._since: float | None = None
        self._begin_waiting()
        self._look_later()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._begin_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        self._looking.cancel()
        super().connection_lost(error)

    def _begin_waiting(self) -> None:
        cycle: Any = getattr(self, "cycle", None)
        if cycle is not None and not cycle.response_complete:
            self._since = None
        elif self._since is None:
            self._since = asyncio.get_running_loop().time()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self.seconds, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._since is not None and now - self._since >= self.seconds:
            self._transport.close()
        else:
            self._look_later()
