"""What is followed is told to clients and stored, and neither a bus nor a store that is away holds anything up."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from broker import announcing
from broker.announcing import CHANGES_WAITING, Announcer
from broker.report import Report
from broker.resolving import Change, Left
from instruments.models import UniverseChange
from marketdata.bus import Notice, UniverseNotice, batches
from tests.zones import ist
from tradingok import ports

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

AT = ist("2026-11-17 15:40:00")
CHANGE = Change(
    AT, ["expiry"], {"NSE_FO|2": "full"}, {"NSE_FO|1": Left(11, "expired", "NSE_FO|2")}, {"NSE_FO|3": "ltpc"}, {"full": 5, "ltpc": 1}
)


def announcer() -> Announcer:
    return Announcer(Report(shard=1), shard=1)


async def notices(told: Announcer, count: int) -> list[Notice]:
    """Join as a hub does, let it tell, return what came."""
    reading = batches()
    coming = [asyncio.create_task(reading.__anext__())]
    await asyncio.wait_for(reading.opened.wait(), 30)
    await told.step()
    found = []
    for _ in range(count):
        found.append(await asyncio.wait_for(coming.pop(), 30))
        coming.append(asyncio.create_task(reading.__anext__()))
    coming.pop().cancel()
    await reading.aclose()
    assert all(isinstance(each, Notice) for each in found)
    return [each for each in found if isinstance(each, Notice)]


async def test_a_change_is_told_and_stored_and_what_is_refused_is_told_each_time() -> None:
    told = announcer()
    told.change(CHANGE)
    told.refuse({7: "No room."})
    first, second = await notices(told, 2)
    assert first.universe == UniverseNotice(AT, ["expiry"], {"NSE_FO|2": "full"}, {"NSE_FO|1": (11, "expired", "NSE_FO|2")})
    assert second.refused == {7: "No room."}
    (row,) = [each async for each in UniverseChange.objects.all()]
    assert (row.shard, row.causes, row.left, row.moved) == (1, ["expiry"], {"NSE_FO|1": "expired"}, {"NSE_FO|3": "ltpc"})
    (again,) = await notices(told, 1)
    assert (again.universe, again.refused) == (None, {7: "No room."})
    assert sum(told.counts.values()) == 0


async def test_a_store_that_is_away_gets_it_later_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0
    insert = Collection.insert_many

    def fail(collection: Collection, *given: object, **options: object) -> object:  # type: ignore[type-arg]
        nonlocal failures
        stored = insert(collection, *given, **options) if failures else None  # type: ignore[arg-type]
        if "universechange" in collection.name and failures < 2:
            failures += 1
            raise AutoReconnect("connection refused")  # the second time it was stored, and nobody was told
        return stored

    monkeypatch.setattr(Collection, "insert_many", fail)
    told = announcer()
    told.change(CHANGE)
    for number, stored in ((1, 0), (2, 1), (2, 1)):
        await told.step()
        assert (failures, await UniverseChange.objects.acount()) == (number, stored)
    assert not told._unstored
    assert sum(told.counts.values()) == 0


async def test_a_bus_that_is_away_holds_up_no_storing_and_gets_it_later() -> None:
    host = {"address": f"redis://127.0.0.1:{ports.choose()}/0"}
    layer = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [host]}}}
    told = announcer()
    told.change(CHANGE)
    with override_settings(CHANNEL_LAYERS=layer):
        await told.step()
    assert await UniverseChange.objects.acount() == 1
    assert len(told._unsent) == 1
    (late,) = await notices(told, 1)
    assert late.universe is not None
    assert late.universe.at_ms == AT
    assert not told._unsent


async def test_no_more_wait_than_may_and_what_is_refused_anew_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announcer()
    for _ in range(CHANGES_WAITING + 3):
        told.change(CHANGE)
    assert told.counts == {"universe_changes_unsent_total": 3, "universe_changes_unstored_total": 3}
    told = announcer()
    steps = []

    async def step() -> None:
        steps.append(dict(told._refused))

    monkeypatch.setattr(told, "step", step)
    monkeypatch.setattr(announcing, "REFUSED_SECONDS", 3600.0)
    running = asyncio.create_task(told.run())
    for refused in ({7: "No room."}, {7: "No room."}, {}):
        told.refuse(refused)
        for _ in range(5):
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert steps == [{7: "No room."}, {}]
