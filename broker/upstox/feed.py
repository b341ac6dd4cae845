"""The broker's feed socket: open it, send requests in binary frames, receive messages. It decodes nothing and keeps nothing.

Reconnecting is three parts: *when* is `reconnect_delays`, *whether* is the error's kind (`broker.upstox.protocol`), the loop
is the runner's.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Literal
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import CloseCode

from broker.upstox.protocol import FeedUnavailable, ProtocolViolation, error_of, subscribe_frame

MESSAGE_BYTES = 16 << 20
"""Largest message taken; a snapshot of 2,000 full-mode keys is about 0.8 MB."""
QUEUE_MESSAGES = 256
"""Messages that wait between the socket and us; past it TCP pushes back."""
PING_SECONDS = 10.0
"""A ping goes out so often, and its pong may take so long: without it the connection is dropped."""
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
KEYS_PER_REQUEST = 1000
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0


def reconnect_delays(source: random.Random | None = None) -> Iterator[float]:
    """Yield the pauses before each further attempt, in seconds: 0.5 doubled up to 30, each times 0.5 to 1.5. A new one after real data."""
    source = source or random.Random()
    delay = FIRST_DELAY_SECONDS
    while True:
        yield delay * source.uniform(0.5, 1.5)
        delay = min(delay * 2, LONGEST_DELAY_SECONDS)


class FeedConnection:
    """One open socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @property
    def latency(self) -> float:
        """Round trip of the newest ping, in seconds; 0 before the first. It differs with every pong."""
        return self._socket.latency

    async def request(self, method: str, mode: str, keys: Sequence[str]) -> int:
        """Ask for keys in pieces; return how many requests that took.

        Raises:
            FeedUnavailable: the connection is gone.
        """
        requests = 0
        for start in range(0, len(keys), KEYS_PER_REQUEST):
            frame = subscribe_frame(secrets.token_hex(8), method, mode, keys[start : start + KEYS_PER_REQUEST])
            try:
                await self._socket.send(frame)
            except ConnectionClosed as error:
                raise FeedUnavailable(_closed(error)) from error
            requests += 1
        return requests

    async def receive(self) -> bytes | str:
        """Return the next message.

        Raises:
            FeedUnavailable: the connection is gone; worth a reconnect.
        """
        try:
            return await self._socket.recv()
        except ConnectionClosed as error:
            raise FeedUnavailable(_closed(error)) from error

    async def close(self) -> None:
        """Close within CLOSE_SECONDS."""
        await self._socket.close()


async def open_feed(url: str) -> FeedConnection:
    """Connect to an authorised address (single use).

    Raises:
        AuthExpired: 401; do not retry with the same token.
        BrokerError: another refusal, or nobody there; retry unless `permanent`.
    """
    try:
        proxy: Literal[True] | None = None if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1") else True
        socket = await connect(
            url,
            max_size=MESSAGE_BYTES,
            max_queue=QUEUE_MESSAGES,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            proxy=proxy,
        )
    except InvalidStatus as refused:
        response = refused.response
        # Here 403 means a spent code, the connection limit or throttling, never the token, whatever code is in the body (FACTS §3.1).
        body = b"" if response.status_code == 403 else bytes(response.body or b"")
        raise error_of(response.status_code, body, response.headers.get("Retry-After")) from None
    except (InvalidURI, ValueError):  # ValueError: a host or port that cannot be one
        raise ProtocolViolation("the broker gave an address that is no WebSocket address") from None
    except (TimeoutError, OSError, InvalidHandshake) as error:
        raise FeedUnavailable(f"cannot connect to the feed: {type(error).__name__}") from None  # its text may hold the code
    return FeedConnection(socket)


def _closed(error: ConnectionClosed) -> str:
    if error.rcvd is not None:
        return f"the broker closed the feed with {error.rcvd.code}"
    if error.sent is not None and "ping" in error.sent.reason:
        return f"the broker did not answer a ping within {PING_SECONDS:.0f} s"
    if error.sent is not None and error.sent.code != CloseCode.NORMAL_CLOSURE:
        return f"the broker's messages break the protocol: {error.sent.reason or error.sent.code}"
    return "the feed's connection broke"
