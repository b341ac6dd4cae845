"""What the shared state holds of a hub is kept alive. That demand is written at once is tested in test_consumers."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from marketdata import hub_presence, live_state
from marketdata.hub import Hub
from marketdata.hub_presence import HubPresence
from tests.marketdata.recording import client_of


def presence_of(hub: Hub) -> HubPresence:
    return HubPresence(hub.name, hub.clients, hub.subscriptions, hub.counters)


async def test_places_of_connections_are_renewed(valkey: redis.Redis, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_presence, "PLACES_SECONDS", 0.0)
    hub = Hub()
    client, page = client_of(hub), client_of(hub)
    client.lease, page.lease = ("user", "one"), None
    await presence_of(hub).places_step()
    assert valkey.zrange(f"{settings.NAMESPACE}.connections.user", 0, -1) == [b"one"]
    await live_state.aclose()


async def test_demand_and_counters_are_written_on_a_change(valkey: redis.Redis) -> None:
    hub = Hub()
    client_of(hub, 5)
    await presence_of(hub).demand_step()
    assert await live_state.ademand_read() == {5: "full"}
    assert (await live_state.ahub_counters_read())[hub.name]["clients"] == 1
    assert not hub.subscriptions.demand_changed.is_set()
    await live_state.aclose()


async def test_without_redis_both_go_on(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(hub_presence, "PLACES_SECONDS", 0.0)
    hub = Hub()
    client_of(hub, 5).lease = ("user", "one")
    await presence_of(hub).demand_step()
    await presence_of(hub).places_step()
    await live_state.aclose()
