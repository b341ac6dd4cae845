"""A tiny ASGI application in a real server process, for tests of the server itself. `python -m tests.tradingok.tiny_application PORT MODE`

It floods every WebSocket client but those of `/quiet` and `/line`; to the latter it sends a frame of each of SIZES by its line.
MODE `abort`: a client that takes nothing for half a second is aborted, as the consumer does it. MODE `stubborn`: nobody is
aborted, and saying good-bye hangs. It prints a line per event.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tradingok.body_limit import BodyLimit
from tradingok.bounded_server import LINE_EXTENSION, serve

FLOOD = b"x" * 65_536
SIZES = (0, 1, 125, 126, 65_535, 65_536, 2_000_000)
"""Around each change of a frame's header; the last is more than a machine takes unasked."""


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echo HTTP bodies' size; flood WebSocket clients."""
    if scope["type"] == "http":
        await BodyLimit(_size, limit=1000)(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    print("accepted", flush=True)
    if scope["path"] == "/line":
        await _write_line(scope["extensions"][LINE_EXTENSION])
    flood = asyncio.create_task(_flood(scope, send))
    message = await receive()
    while message["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": f"{len(message['text'])}"})
        message = await receive()
    print("disconnected", flush=True)
    flood.cancel()


async def _size(_scope: dict[str, Any], receive: Any, send: Any) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def _write_line(line: Any) -> None:
    for size in SIZES:
        if not line.write_text(b"x" * size):
            print(f"full at {size}, backlog over a million: {line.backlog() > 1_000_000}", flush=True)
            await line.until_writable()


async def _flood(scope: dict[str, Any], send: Any) -> None:
    if scope["path"] in ("/quiet", "/line"):
        return
    while True:
        try:
            async with asyncio.timeout(0.5):
                await send({"type": "websocket.send", "bytes": FLOOD})
        except TimeoutError:
            if sys.argv[2] == "abort":
                print("aborting", flush=True)
                scope["extensions"][LINE_EXTENSION].abort()
                return


async def _before_stop() -> None:
    print("good-bye", flush=True)
    if sys.argv[2] == "stubborn":
        await asyncio.sleep(3600)


if __name__ == "__main__":
    serve(application, host="127.0.0.1", port=int(sys.argv[1]), message_bytes=2000, before_stop=_before_stop)
    print("ended", flush=True)
