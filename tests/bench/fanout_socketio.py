"""python-socketio as its documentation shows it, to compare with: a room for each instrument, fed through its Redis manager.

Served by uvicorn: `uvicorn tests.bench.fanout_socketio:application`.
"""

from __future__ import annotations

import os

import socketio  # type: ignore[import-untyped]

manager = socketio.AsyncRedisManager(os.environ["REDIS_URL"], channel=f"{os.environ['TRADINGOK_NAMESPACE']}.rooms")
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins=[])


@server.event  # type: ignore[untyped-decorator]
async def subscribe(sid: str, keys: list[str]) -> None:
    """Let a client into the rooms of its instruments."""
    for key in keys:
        await server.enter_room(sid, key)


application = socketio.ASGIApp(server)
