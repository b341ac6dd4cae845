"""What the tests of the way out begin with: the web server, the hub of the test's own loop, a feed that reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis

from marketdata.hub import Hub, close_hub, get_hub
from tests.marketdata.way_out import ScriptedFeed, WebServer, web_server


@pytest.fixture
def server(db: None, valkey: redis.Redis) -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest_asyncio.fixture
async def hub(db: None, valkey: redis.Redis) -> AsyncIterator[Hub]:
    yield await get_hub()
    await close_hub()


@pytest_asyncio.fixture
async def feed(valkey: redis.Redis) -> AsyncIterator[ScriptedFeed]:
    async with ScriptedFeed().reporting() as running:
        yield running
