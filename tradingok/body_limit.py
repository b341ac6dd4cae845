"""An ASGI wrapper that refuses large HTTP bodies. Django would first write them to disk, whatever their size, and judge later."""

from __future__ import annotations

import json
from typing import Any

from tradingok.bounded_server import Application


class _TooLarge(Exception):
    pass


class BodyLimit:
    """Answer 413 to a request whose body is larger than `limit` bytes, by its header or as it comes; the body is not kept."""

    def __init__(self, application: Application, *, limit: int) -> None:
        self.application = application
        self.limit = limit

    async def __call__(self, scope: dict[str, Any], receive: Application, send: Application) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            await self._refuse(send)
            return
        taken = 0
        begun = False

        async def counted_receive() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise _TooLarge
            return message

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.application(scope, counted_receive, watched_send)
        except _TooLarge:
            if not begun:
                await self._refuse(send)

    async def _refuse(self, send: Application) -> None:
        problem = {
            "title": "Request body too large",
            "status": 413,
            "code": "too_large",
            "detail": f"At most {self.limit} bytes.",
            "field": None,
        }
        body = json.dumps(problem).encode()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
