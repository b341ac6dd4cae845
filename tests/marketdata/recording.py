"""A client of a hub without a connection, which keeps what it is told; and batches to hand to a hub that was not started."""

from __future__ import annotations

import json
from typing import Any

from accounts.services import Credential
from marketdata.bus import BusBatch
from marketdata.hub import Hub
from marketdata.outbox import Outbox
from marketdata.wire import FULL


class RecordingClient:
    """A connection that counts how often it is woken, and what it is told."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.credential: Credential | None = None
        self.lease: tuple[str, str] | None = None
        self.woken = 0
        self.closed: list[int] = []
        self.hub: Hub | None = None

    def wake(self) -> None:
        self.woken += 1

    def inspect(self, now: float) -> None:
        pass

    def close(self, code: int, *why: bytes) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        if self.hub is not None:
            self.hub.disconnect(self)

    def ticks(self, hub: Hub) -> list[Any]:
        return [json.loads(fragment) for fragment in hub.fragments(self.outbox)]

    def told(self, event: str) -> list[dict[str, Any]]:
        messages = [json.loads(message) for message in self.outbox.drain_control()]
        return [message for message in messages if message["event"] == event]


def client_of(hub: Hub, *instruments: int, mode: int = FULL) -> RecordingClient:
    client = RecordingClient()
    client.hub = hub
    hub.connect(client)
    for instrument in instruments:
        hub.subscriptions.add(client, instrument, f"TEST|{instrument}", mode)
    return client


def batch(n: int, *entries: Any, epoch: int = 7, shard: int = 0) -> BusBatch:
    return BusBatch(shard, epoch, n, list(entries), None)


async def charted(hub: Hub, *instruments: int) -> RecordingClient:
    """Return a client that has the charts of instruments and is owed nothing."""
    client = client_of(hub)
    for instrument in instruments:
        hub.subscriptions.add_chart(client, instrument, f"TEST|{instrument}", "1m", 300)
    while hub._charts._due and min(hub._charts._due.values()) == 0.0:
        await hub._charts.load_step()
    assert len(list(client.outbox.drain_charts())) == len(instruments)
    client.woken = 0
    return client
