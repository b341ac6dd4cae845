"""A broker on loopback that follows a script: how it answers authorise, and what it does with a connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from broker.upstox.protocol import AUTHORIZE_PATH

Serve = Callable[[ServerConnection], Awaitable[None]]


class Answer(NamedTuple):
    """What the broker answers to a request instead of letting it pass."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


UNAUTHORIZED = Answer(401, b'{"status":"error","errors":[{"error_code":"UDAPI100050","message":"Invalid token"}]}')
FORBIDDEN = Answer(403, b'{"status":"error","errors":[{"error_code":"UDAPI100050x","message":"Forbidden"}]}')
BLOCKED = Answer(403, b"<html><body><h1>Sorry, you have been blocked</h1></body></html>", (("Content-Type", "text/html"),))
PAGE = Answer(200, b"<html>maintenance</html>", (("Content-Type", "text/html"),))


def limited(seconds: int) -> Answer:
    """A 429 with a Retry-After."""
    return Answer(429, b'{"status":"error","errors":[{"error_code":"UDAPI10005","message":"Too many"}]}', (("Retry-After", str(seconds)),))


class ScriptedBroker:
    """Takes the next answer of a script for each authorise call and each upgrade; without one it accepts.

    Attributes:
        authorized: (monotonic time, token) of each authorise call.
        connections: how many connections were opened.
    """

    def __init__(self, authorize: Sequence[Answer | None], upgrade: Sequence[Answer | None], served: Serve) -> None:
        self.url = ""
        self.authorized: list[tuple[float, str]] = []
        self.connections = 0
        self._authorize, self._upgrade, self._served = list(authorize), list(upgrade), served

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP; None lets an upgrade pass."""
        if request.path.startswith("/v2/market/"):  # the calendar: this broker does not know it
            return Response(503, "Service Unavailable", Headers())
        if request.path.startswith(AUTHORIZE_PATH):
            self.authorized.append((time.monotonic(), request.headers.get("Authorization", "").removeprefix("Bearer ")))
            answer = self._authorize.pop(0) if self._authorize else None
            if answer is None:
                content = {"status": "success", "data": {"authorized_redirect_uri": f"ws{self.url[4:]}/feed?code=secret-code"}}
                answer = Answer(200, json.dumps(content).encode())
        else:
            answer = self._upgrade.pop(0) if self._upgrade else None
        if answer is None:
            return None
        headers = Headers([*answer.headers, ("Content-Length", str(len(answer.body))), ("Connection", "close")])
        return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)

    async def serve(self, connection: ServerConnection) -> None:
        """Serve a connection."""
        self.connections += 1
        await self._served(connection)


async def hold(connection: ServerConnection) -> None:
    """Keep a connection open and silent until it ends."""
    await connection.wait_closed()


@asynccontextmanager
async def scripted_broker(
    *, authorize: Sequence[Answer | None] = (), upgrade: Sequence[Answer | None] = (), served: Serve = hold
) -> AsyncIterator[ScriptedBroker]:
    """Give a running broker."""
    broker = ScriptedBroker(authorize, upgrade, served)
    async with serve(broker.serve, "127.0.0.1", 0, process_request=broker.answer, ping_interval=None) as server:
        broker.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield broker


async def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `holds()`. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)
