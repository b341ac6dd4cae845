"""uvicorn with what it lacks for a live feed: applications get a line to the socket, and SIGTERM ends the process within seconds.

Both are needed for clients that do not read: uvicorn's `close()` waits until the client has taken what is buffered, and so
does its shutdown (ARCHITECTURE §4). The line also sends a text frame in one call. Nothing here knows what is served.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import signal
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

logger = logging.getLogger(__name__)

LINE_EXTENSION = "tradingok.line"
BUFFERED_BYTES = 65_536
"""So much may wait in this process before `write_text` says no; it says yes again at a quarter of it."""
UNSENT_BYTES = 65_536
"""So much may wait in the kernel for a client that reads slowly; unbounded, it is megabytes, and minutes old when it arrives."""
FAREWELL_SECONDS = 2.0  # for `before_stop`
CLOSE_SECONDS = 30.0  # for a client to take the last of its connection
GRACE_SECONDS = 1.0  # for requests under way and closing handshakes, after that
KEEP_ALIVE_SECONDS = 30

Application = Callable[..., Awaitable[Any]]


class AbortableWebSocket(WebSocketsSansIOProtocol):
    """A connection whose application finds it in `scope["extensions"]["tradingok.line"]`: the methods below are for it.

    Their use may be mixed with ASGI's `send`: each message is one whole frame either way.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close_timeout = CLOSE_SECONDS
        self.transport.set_write_buffer_limits(high=BUFFERED_BYTES)  # uvloop's own low mark is 16 bytes
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    async def run_asgi(self) -> None:
        extensions = cast(dict[str, Any], self.scope["extensions"])
        extensions[LINE_EXTENSION] = self
        await super().run_asgi()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def write_text(self, payload: bytes) -> bool:
        """Send one text frame now, without the layers of ASGI; what the socket does not take is buffered.

        Returns:
            Whether more may be written. False: wait for `until_writable` first.

        Raises:
            ConnectionResetError: the connection closes; nothing was sent.
        """
        if self.transport.is_closing() or self.close_sent or self.conn.state is not State.OPEN:
            raise ConnectionResetError("the connection closes")
        size = len(payload)
        if size < 126:
            head = bytes((0x81, size))
        elif size < 65_536:
            head = b"\x81\x7e" + size.to_bytes(2)
        else:
            head = b"\x81\x7f" + size.to_bytes(8)
        self.transport.write(head + payload)
        return self.writable.is_set()

    async def until_writable(self) -> None:
        """Wait until the connection takes more, or is gone."""
        await self.writable.wait()

    def backlog(self) -> int:
        """Return the bytes that the client's machine has not taken yet: ours, and the kernel's (Linux: SIOCOUTQ)."""
        if self.transport.is_closing():
            return self.transport.get_write_buffer_size()
        number = self.transport.get_extra_info("socket").fileno()
        (queued,) = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0\0\0\0"))
        return self.transport.get_write_buffer_size() + int(queued)

    def abort(self) -> None:
        """Drop the connection at once, with what is buffered: pending sends return, `receive` gives a disconnect."""
        self.transport.abort()


class BoundedServer(uvicorn.Server):
    """A server that stops in this order, each step bounded: no new connections, `before_stop`, closing, aborting the rest."""

    def __init__(self, config: uvicorn.Config, before_stop: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self.before_stop = before_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self.before_stop()
        except TimeoutError:
            logger.warning("Saying good-bye took longer than %g s: given up", FAREWELL_SECONDS)
        except Exception:
            logger.exception("Saying good-bye failed")  # stopping goes on
        await super().shutdown(sockets)
        leftovers = list(self.server_state.connections)
        for connection in leftovers:
            connection.transport.abort()
        if leftovers:
            logger.warning("Aborted %d connections that did not close", len(leftovers))


def serve(
    application: Application,
    *,
    host: str,
    port: int,
    message_bytes: int,
    before_stop: Callable[[], Awaitable[None]],
    share_port: bool = False,
) -> None:
    """Serve `application` until SIGTERM or SIGINT, then return within about FAREWELL_SECONDS + GRACE_SECONDS.

    Args:
        message_bytes: a larger WebSocket message closes its connection with 1009.
        before_stop: awaited once in the server's loop, before connections are closed.
        share_port: other processes that say so too listen on the same port; the kernel spreads connections evenly among them.

    Raises:
        OSError: the address cannot be bound.
    """
    options: dict[str, Any] = {
        "loop": "uvloop",
        "http": "h11",
        "ws": AbortableWebSocket,
        "ws_max_size": message_bytes,
        "ws_per_message_deflate": False,  # a third more CPU (MEASURED.md, traps)
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "lifespan": "off",
        "log_config": None,  # Django's
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "proxy_headers": False,
    }
    with _listener(host, port, share_port) as listener:
        # uvicorn raises the signal that ended it once more when it is done. Taken here, the exit code stays a true 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        BoundedServer(uvicorn.Config(application, **options), before_stop).run(sockets=[listener])


def _listener(host: str, port: int, share: bool) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:  # never unasked: a second copy on the same port by mistake would get half of the first one's clients
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
