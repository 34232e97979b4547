"""The server as its own process."""

from __future__ import annotations

from types import FrameType

import uvicorn

from lens_sdk.server.app import create_app
from lens_sdk.server.config import ServerConfig, check_address
from lens_sdk.server.connections import timely
from lens_sdk.server.services import Services

GRACE = 30
"""Seconds that requests in progress have to finish when the server is asked to stop."""


class GracefulServer(uvicorn.Server):
    """Accepts no new work after the first signal, but finishes the work in progress."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to shut down."""
        self._services.drain()
        super().handle_exit(sig, frame)


def make_server(
    config: ServerConfig, *, host: str, port: int, grace: int = GRACE, log_level: str = "info"
) -> GracefulServer:
    """Create a server that is ready to run.

    Args:
        config: The server's parts and limits.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        grace: Seconds that requests in progress have to finish when the server stops.
        log_level: Uvicorn's log level.

    Raises:
        UnsafeAddressError: Others could reach the server, and there are no keys.
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
    """Serve until the process is asked to stop.

    Raises:
        UnsafeAddressError: Others could reach the server, and there are no keys.
    """
    make_server(config, host=host, port=port).run()
