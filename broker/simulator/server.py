"""Runs the exchange under uvicorn: true exit codes, a bounded stop, and connections that can be cut.

Stock uvicorn waits for a client that does not read, and ends by the signal that stopped it; neither happens here.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_BYTES = 1024 * 1024
"""Largest message of a client; 5,000 keys are about 150 kB. Past it the connection is closed with 1009."""
CLOSE_SECONDS = 0.5
"""A client that has not taken its close frame by then is cut."""
STOP_SECONDS = 1
PING_SECONDS = 20.0
"""The broker's own period is not known (FACTS §7)."""


class CuttableWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket that gives the application its transport's `abort` (`scope["state"]["abort"]`) and always ends."""

    async def run_asgi(self) -> None:
        """Run the application with `abort` in its scope."""
        self.scope["state"]["abort"] = self.transport.abort
        await super().run_asgi()

    def shutdown(self) -> None:
        """Close with 1012; cut what is still there after CLOSE_SECONDS."""
        super().shutdown()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """A ping went unanswered: close with 1011, then cut."""
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class ExchangeServer(uvicorn.Server):
    """A server that says when it listens and ends with exit code 0 on SIGTERM and SIGINT."""

    def __init__(self, app: ASGIApp, on_ready: Callable[[], None], *, ping_seconds: float = PING_SECONDS) -> None:
        """Prepare to serve.

        Args:
            app: the exchange.
            on_ready: called once it listens.
            ping_seconds: a feed connection is pinged so often, and cut when it has not answered so long after.
        """
        config = uvicorn.Config(
            app,
            ws=CuttableWebSocket,
            ws_max_size=REQUEST_BYTES,
            ws_ping_interval=ping_seconds,
            ws_ping_timeout=ping_seconds,
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and do not die of them afterwards (uvicorn raises them again)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is found before anything is built.

    Args:
        host: address or name.
        port: 0 for any free one.

    Raises:
        OSError: the address is not free or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def run(server: ExchangeServer, bound: socket.socket) -> None:
    """Serve until stopped."""
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[bound]))
