"""An HTTP server for an application, quiet, and without signal handlers of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn

from edgead.web.guard import App

_MOST_CONNECTIONS = 256
_LONGEST_MESSAGE = 4096  # bytes that a browser may send over its WebSocket


class Server(uvicorn.Server):
    """Serves an application until ``should_exit``."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="websockets-sansio",
                ws_max_size=_LONGEST_MESSAGE,
                ws_ping_interval=10,
                ws_ping_timeout=20,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=1,
                log_level="critical",  # an address that was asked for may hold what is no business of a log
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever started this."""
        yield
