"""The WebSocket as programs see it: a real server, a real client, the real valkey and mongod between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis

from tests.marketdata.way_out import ScriptedFeed, WebServer, api_key, instruments, market_client, web_server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def server(db: None, valkey: redis.Redis) -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest_asyncio.fixture
async def feed(valkey: redis.Redis) -> AsyncIterator[ScriptedFeed]:
    async with ScriptedFeed().reporting() as running:
        yield running


async def test_subscribe_gives_the_snapshot_then_updates(server: WebServer, feed: ScriptedFeed) -> None:
    secret = await api_key()
    await instruments(1, 2)
    await feed.tick(1, 100.5)
    await feed.write()
    async with market_client(server.url, secret) as client:
        hello = await client.next(event="hello")
        assert hello["protocol"] == 1
        await client.send(op="subscribe", id=7, instruments=["TEST|1"])
        reply = await client.next(id=7)
        assert reply["results"] == [{"key": "TEST|1", "item": "TEST|1", "status": "active", "instrument": 1}]
        seq, quote = await client.price("TEST|1", 100.5)
        assert seq == 1
        assert quote["depth"] == [[100.45, 75, 100.55, 150]]
        await feed.tick(1, 101.0)
        seq, quote = await client.price("TEST|1", 101.0)
        assert seq == 2
