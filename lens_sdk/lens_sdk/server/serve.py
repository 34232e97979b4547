"""The server in a process of its own."""

from __future__ import annotations

from types import FrameType

import uvicorn

from lens_sdk.server.app import create_app
from lens_sdk.server.config import ServerConfig, check_address
from lens_sdk.server.connections import timely
from lens_sdk.server.services import Services

GRACE = 30
"""Seconds that requests under way have to finish when the server is told to stop."""


class GracefulServer(uvicorn.Server):
    """Takes no new work from the first signal on, while what is under way is finished."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down."""
        self._services.drain()
        super().handle_exit(sig, frame)


def make_server(
    config: ServerConfig, *, host: str, port: int, grace: int = GRACE, log_level: str = "info"
) -> GracefulServer:
    """A server that is ready to run.

    Args:
        config: Its parts and bounds.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        grace: Seconds that requests under way have to finish when it stops.
        log_level: How much it tells.

    Raises:
        UnsafeAddressError: Others could reach it, and there are no keys.
    """
    check_address(host, config.keys)
    app = create_app(config)
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        access_log=log_level == "debug",
        timeout_graceful_shutdown=grace,
        server_header=False,
        http=timely(config.limits.body_seconds),
    )
    return GracefulServer(settings, app.state.services)


def serve(config: ServerConfig, *, host: str, port: int) -> None:
    """Serve until told to stop.

    Raises:
        UnsafeAddressError: Others could reach it, and there are no keys.
    """
    make_server(config, host=host, port=port).run()
