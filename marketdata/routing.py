"""WebSocket paths. What is not here is refused before the handshake (HTTP 403), without a traceback."""

from __future__ import annotations

from typing import Any, cast

from channels.routing import URLRouter
from django.urls import path, re_path

from marketdata.consumers import market_consumer


async def nothing_here(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse a WebSocket at an unknown path."""
    await receive()
    await send({"type": "websocket.close"})


# Django's path() is typed for views; the router calls what it is given as an ASGI application.
_routes: list[Any] = [path("ws/market/", cast("Any", market_consumer)), re_path(r"", cast("Any", nothing_here))]

websocket_application = URLRouter(_routes)
"""The ASGI application of every WebSocket. No session middleware: `marketdata.admission` reads the session once."""
