"""The hub of a loop: one, whoever asks; and what sync code reads of it, or without it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async

from marketdata import live_state
from marketdata.hub import Hub, close_hub, current_hub, get_hub, latest_entries
from marketdata.models import LatestQuote
from marketdata.wire import entry_pack
from tests.marketdata.way_out import ScriptedFeed, auntil, entry_of, own_valkey
from tradingok.embedded import stop_server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


async def test_one_hub_serves_a_loop_however_many_ask_at_once(hub: Hub) -> None:
    assert set(await asyncio.gather(*(get_hub() for _ in range(5)))) == {hub}
    assert current_hub() is hub
    assert await asyncio.to_thread(current_hub) is hub
    await close_hub()
    assert current_hub() is None
    other = await get_hub()
    assert other is not hub


@database_sync_to_async
def store(*entries: Any) -> None:
    LatestQuote.objects.bulk_create(
        LatestQuote(id=entry.instrument, entry=entry_pack(entry, 5), updated_at=datetime.now(UTC)) for entry in entries
    )


async def test_a_hub_without_a_feed_shows_what_was_stored(db: None, valkey: redis.Redis) -> None:
    await store(entry_of(1, 8, 10.0), entry_of(2, 9, 20.0))
    await live_state.aquotes_write([entry_of(2, 1, 21.0)], epoch=7)
    hub = await get_hub()
    try:
        await auntil(lambda: len(hub.entries) == 2)
        assert (hub.entries[1].seq, hub.entries[2].seq) == (8, 1), "the shared state is newer than the store"
    finally:
        await close_hub()


async def test_a_sync_view_starts_the_hub_of_its_loop(db: None, valkey: redis.Redis, feed: ScriptedFeed) -> None:
    await feed.tick(1, 10.0)
    await feed.write()
    assert current_hub() is None
    try:
        found, state = await sync_to_async(latest_entries, thread_sensitive=False)([1, 2])
        assert (set(found), found[1].seq, state) == ({1}, 1, "live")
        assert current_hub() is not None
        await feed.tick(1, 11.0)
        await auntil(lambda: current_hub().entries[1].seq == 2)  # type: ignore[union-attr]
        found, _state = await sync_to_async(latest_entries)([1])
        assert found[1].seq == 2
    finally:
        await close_hub()


def test_without_a_loop_the_shared_state_is_read_and_the_store_for_the_rest(db: None, valkey: redis.Redis) -> None:
    async def write() -> None:
        await store(entry_of(1, 8, 10.0), entry_of(2, 9, 20.0))
        await live_state.aquotes_write([entry_of(2, 1, 21.0)], epoch=7)
        await live_state.astatus_write(ScriptedFeed().status())
        await live_state.aclose()

    asyncio.run(write())
    found, state = latest_entries([1, 2, 3])
    assert ({number: entry.seq for number, entry in found.items()}, state) == ({1: 8, 2: 1}, "live")
    assert latest_entries([]) == ({}, "live")


def test_while_redis_is_away_the_store_answers(db: None, tmp_path: Path, settings: Any) -> None:
    asyncio.run(store(entry_of(1, 8, 10.0)))
    with own_valkey(tmp_path, settings) as server:
        stop_server(server)
        found, state = latest_entries([1, 2])
    assert ({number: entry.seq for number, entry in found.items()}, state) == ({1: 8}, "reconnecting")


async def test_a_hub_starts_in_time_while_redis_is_away(db: None, tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as server:
        stop_server(server)
        started = asyncio.get_running_loop().time()
        hub = await get_hub()
        try:
            assert asyncio.get_running_loop().time() - started < 30
            assert hub.feed_view().state == "reconnecting"
        finally:
            await close_hub()
