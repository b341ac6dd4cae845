"""The usual Channels way, to compare with: every consumer is in the group, takes each message, and filters its own instruments.

Served as uvicorn's own documentation says: `uvicorn tests.bench.fanout_group_send:application`.
"""

from __future__ import annotations

import os
from typing import Any, cast

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradingok.settings")
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

GROUP = "bench.ticks"


class Consumer(AsyncJsonWebsocketConsumer):
    """One client."""

    async def connect(self) -> None:
        self.keys: set[str] = set()
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def receive_json(self, content: dict[str, Any], **_options: Any) -> None:
        self.keys.update(content["subscribe"])

    async def ticks(self, event: dict[str, Any]) -> None:
        for tick in event["ticks"]:
            if tick["key"] in self.keys:
                await self.send_json(tick)

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/market/", cast("Any", Consumer.as_asgi()))])})
