"""The fan-out: batches in, fragments out, and what it does when it may have missed something."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime

import pytest
import redis
from channels.db import database_sync_to_async

from instruments.models import Instrument
from marketdata import hub_quotes, ohlc_channels
from marketdata.bus import Batches, BusBatch, Notice, UniverseNotice
from marketdata.commands import ChainChannel
from marketdata.domain.candle import Candle
from marketdata.domain.feed_status import FeedStatus
from marketdata.fan_out import TOGETHER_BATCHES
from marketdata.hub import Hub, close_hub, get_hub
from marketdata.wire import FULL, LTPC
from tests.marketdata.recording import batch, charted, client_of
from tests.marketdata.way_out import (
    MINUTE_MS,
    NOON_MS,
    ScriptedFeed,
    auntil,
    entry_of,
    minute_of,
    nifty_options,
    option_of,
    store_candles,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def quiet_hub(db: None) -> Hub:
    """A hub that was not started: batches are handed to it by the test."""
    return Hub()


def test_a_batch_wakes_each_client_once_and_only_those_it_concerns(quiet_hub: Hub) -> None:
    both, one, other = client_of(quiet_hub, 1, 2), client_of(quiet_hub, 2, mode=LTPC), client_of(quiet_hub, 3)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0), entry_of(2, 1, 20.0)))
    assert (both.woken, one.woken, other.woken) == (1, 1, 0)
    assert [(key, seq, quote["last_price"]) for key, seq, quote in both.ticks(quiet_hub)] == [("TEST|1", 1, 10.0), ("TEST|2", 1, 20.0)]
    assert "volume" not in one.ticks(quiet_hub)[0][2]
    assert other.ticks(quiet_hub) == []


def test_an_open_window_collects_the_batch_and_a_closed_one_marks(quiet_hub: Hub) -> None:
    quiet_hub._apply(batch(1, entry_of(1, 1, 9.0), entry_of(2, 1, 19.0)))
    full, short, busy = client_of(quiet_hub, 1, 2), client_of(quiet_hub, 1, mode=LTPC), client_of(quiet_hub, 1)
    for client in (full, short):
        client.ticks(quiet_hub)
        client.woken = 0
        assert client.outbox.open_window()
    busy.woken = 0
    quiet_hub._apply(batch(2, entry_of(1, 2, 10.0), entry_of(2, 2, 20.0)))
    assert [json.loads(fragment)[0] for fragment in full.outbox.collected] == ["TEST|1", "TEST|2"]
    assert [set(json.loads(fragment)[2]) & {"volume", "depth"} for fragment in short.outbox.collected] == [set()]
    assert [key for key, _seq, _quote in busy.ticks(quiet_hub)] == ["TEST|1"]
    assert (full.woken, short.woken, busy.woken) == (1, 1, 1)


def test_a_quote_of_an_earlier_run_is_given_and_does_not_make_a_subscription_active(quiet_hub: Hub) -> None:
    quiet_hub._quotes.take_all([(0, entry_of(1, 5, 9.0)), (6, entry_of(2, 5, 19.0))])
    client = client_of(quiet_hub)
    assert not quiet_hub.subscriptions.add(client, 1, "TEST|1", FULL)
    assert [quote["last_price"] for _key, _seq, quote in client.ticks(quiet_hub)] == [9.0]
    quiet_hub._apply(batch(1, entry_of(3, 1, 1.0)))
    quiet_hub._quotes.take_all([(0, entry_of(1, 6, 9.5))])
    assert client.told("subscription") == []
    assert not quiet_hub.subscriptions.add(client, 2, "TEST|2", FULL)
    quiet_hub._apply(batch(2, entry_of(1, 1, 10.0), entry_of(2, 1, 20.0)))
    assert [(told["key"], told["status"]) for told in client.told("subscription")] == [("TEST|1", "active"), ("TEST|2", "active")]


def test_batches_that_have_come_already_are_sent_as_one(quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = 3
    monkeypatch.setattr(type(quiet_hub._reading), "waiting", property(lambda _reading: waiting))
    client = client_of(quiet_hub, 1)
    for n in range(1, 4):
        quiet_hub._apply(batch(n, entry_of(1, n, float(n))))
        assert client.woken == 0
    waiting = 0
    quiet_hub._apply(batch(4, entry_of(1, 4, 4.0)))
    assert client.woken == 1
    waiting = 100
    for n in range(5, 5 + TOGETHER_BATCHES):
        quiet_hub._apply(batch(n, entry_of(1, n, float(n))))
    assert client.woken == 2, "not for ever"


class ReadyBatches(Batches):
    """Batches that have all come already."""

    def __init__(self, ready: list[BusBatch]) -> None:
        super().__init__()
        self.ready = ready

    @property
    def waiting(self) -> int:
        return len(self.ready)

    async def __anext__(self) -> BusBatch:
        if not self.ready:
            raise StopAsyncIteration
        return self.ready.pop(0)


async def test_batches_that_have_come_already_do_not_hold_the_loop(quiet_hub: Hub) -> None:
    quiet_hub._reading = ReadyBatches([batch(n, entry_of(1, n, float(n))) for n in range(1, 201)])
    client = client_of(quiet_hub, 1)
    following = asyncio.create_task(quiet_hub._follow())
    seen = set()
    while not following.done():
        await asyncio.sleep(0)
        seen.add(client.woken)
    assert seen == set(range(1, 200 // TOGETHER_BATCHES + 1)), "others had their turn after each"


async def test_a_reader_that_fails_is_asked_again(hub: Hub, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []
    read = Batches.__anext__

    async def fail_once(reading: Batches) -> BusBatch | Notice:
        if not failures:
            failures.append(1)
            raise RuntimeError("the layer failed")
        return await read(reading)

    monkeypatch.setattr(Batches, "__anext__", fail_once)
    await auntil(lambda: failures)  # the feed's next report ends the read under way
    await feed.tick(1, 10.0)
    await auntil(lambda: 1 in hub.entries and hub.settled)


def minute(instrument: int, number: int, close: float, state: str = "live") -> Candle:
    return minute_of(instrument, NOON_MS + number * MINUTE_MS, close, state)


async def test_candles_and_quotes_of_a_batch_wake_a_client_once(quiet_hub: Hub) -> None:
    client = await charted(quiet_hub, 1)
    quiet_hub.subscriptions.add(client, 1, "TEST|1", FULL)
    client.woken = 0
    assert client.outbox.open_window()
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    client.told("")
    client.ticks(quiet_hub)
    client.woken = 0
    assert client.outbox.open_window()
    both = batch(2, entry_of(1, 2, 11.0))._replace(candles=[minute(1, 0, 101.0), minute(2, 0, 102.0)])
    quiet_hub._apply(both)
    assert client.woken == 1
    assert len(client.outbox.collected) == 1, "the quote goes out as ever"
    assert [json.loads(push)["candle"][4] for push in client.outbox.drain_charts()] == [101.0]
    assert quiet_hub.recent_minutes(2) == [minute(2, 0, 102.0)]
    found = quiet_hub.counters()
    assert (found["candles_received_total"], found["candles_drained_total"], found["snapshots_drained_total"]) == (2, 1, 1)
    assert found["marked_total"] == found["delivered_total"] + found["merged_total"] + found["forgotten_total"] + found["waiting"]


async def test_a_report_ends_candles_by_market_time(quiet_hub: Hub) -> None:
    client = client_of(quiet_hub)
    quiet_hub._apply(batch(0)._replace(status=ScriptedFeed().status()._replace(epoch=7, n=0, data_ms=NOON_MS)))
    series = quiet_hub.subscriptions.add_chart(client, 1, "TEST|1", "3m", 300)
    await quiet_hub._charts.load_step()
    quiet_hub._apply(batch(1)._replace(candles=[minute(1, 0, 101.0, "confirmed")]))
    assert series.candles()[0].state == "live"
    list(client.outbox.drain_charts())
    client.woken = 0
    quiet_hub._apply(batch(2)._replace(status=ScriptedFeed().status()._replace(epoch=7, n=2, data_ms=NOON_MS + 3 * MINUTE_MS)))
    assert series.candles()[0].state == "confirmed"
    assert client.woken > 0


async def test_another_run_of_a_feed_gives_its_charts_anew(quiet_hub: Hub) -> None:
    client = await charted(quiet_hub, 1)
    quiet_hub._apply(batch(1)._replace(candles=[minute(1, 9, 101.0)]))
    quiet_hub._apply(batch(1, epoch=8)._replace(candles=[minute(1, 2, 102.0)]))
    assert list(client.outbox.drain_charts()) == []
    await quiet_hub._charts.load_step()
    (whole,) = map(json.loads, client.outbox.drain_charts())
    assert (whole["snapshot"], [item["candle"][4] for item in whole["candles"]]) == (True, [102.0])


async def test_after_a_loss_charts_are_read_again(hub: Hub, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ohlc_channels, "UNSURE_SECONDS", 3600.0)
    await auntil(lambda: hub.settled)
    client = client_of(hub)
    series = hub.subscriptions.add_chart(client, 1, "TEST|1", "1m", 300)
    await auntil(lambda: series.is_filled)
    await store_candles([minute(1, 0, 101.0, "confirmed")])  # told in a message that is lost
    feed.n += 1
    await auntil(lambda: not hub.settled)
    await auntil(lambda: hub.settled)
    await auntil(lambda: [candle.close for candle in series.candles()] == [101.0])


def test_a_notice_that_fails_is_no_loss_of_quotes(quiet_hub: Hub) -> None:
    client = client_of(quiet_hub, 1)
    quiet_hub._take_notice(Notice([minute(1, 0, 5.0)._replace(interval="5m")], []))
    assert client.told("gap") == []
    assert quiet_hub.counts["notices_received_total"] == 1


def test_the_counters_add_up_whoever_comes_and_goes(quiet_hub: Hub) -> None:
    def assert_it() -> dict[str, float]:
        found = quiet_hub.counters()
        assert found["marked_total"] == found["delivered_total"] + found["merged_total"] + found["forgotten_total"] + found["waiting"]
        return found

    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0), entry_of(2, 1, 20.0)))
    one, two, gone = client_of(quiet_hub, 1, 2), client_of(quiet_hub, 1, mode=LTPC), client_of(quiet_hub, 1, 2)
    assert assert_it()["waiting"] == 5
    one.ticks(quiet_hub)
    assert assert_it()["delivered_total"] == 0, "drained is not delivered"
    one.outbox.delivered()
    one.outbox.open_window()
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0), entry_of(2, 2, 21.0)))
    assert assert_it()["merged_total"] == 3
    one.outbox.window_delivered()
    quiet_hub.disconnect(gone)
    quiet_hub.subscriptions.remove(two, 1)
    found = assert_it()
    assert (found["delivered_total"], found["forgotten_total"], found["waiting"], found["clients"]) == (4, 3, 0, 2)
    quiet_hub._apply(batch(5, entry_of(1, 2, 11.0), entry_of(2, 3, 22.0)))
    assert (found["batches_received_total"], found["entries_received_total"]) == (2, 4)
    found = assert_it()
    assert (found["batches_lost_total"], found["entries_stale_total"], found["connections_accepted_total"]) == (2, 1, 3)


def test_clients_of_a_kind_share_the_same_bytes(quiet_hub: Hub) -> None:
    first, second = client_of(quiet_hub, 1), client_of(quiet_hub, 1)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    assert quiet_hub.fragments(first.outbox)[0] is quiet_hub.fragments(second.outbox)[0]


def test_quotes_never_go_back(quiet_hub: Hub) -> None:
    quiet_hub._apply(batch(1, entry_of(1, 5, 50.0)))
    quiet_hub._apply(batch(1, entry_of(1, 6, 60.0)))  # the same number again
    quiet_hub._apply(batch(2, entry_of(1, 4, 40.0)))  # an older seq
    quiet_hub._apply(batch(9, entry_of(1, 99, 99.0), epoch=6))  # an earlier run
    assert (quiet_hub.entries[1].seq, quiet_hub.counts["entries_stale_total"]) == (5, 1)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0), epoch=8))
    assert quiet_hub.entries[1].seq == 1


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (batch(2), ""),
        (batch(3), "1 messages of the feed were lost."),
        (batch(12), "10 messages of the feed were lost."),
        (batch(1, epoch=8), "The feed has started again."),
        (batch(40, shard=1), ""),
    ],
)
def test_only_a_hole_or_another_run_is_a_loss(quiet_hub: Hub, second: BusBatch, why: str) -> None:
    quiet_hub._apply(batch(1))
    quiet_hub._apply(second)
    assert quiet_hub.board.lost_why == why


def test_a_client_that_left_is_forgotten(quiet_hub: Hub) -> None:
    client = client_of(quiet_hub, 1, 2)
    quiet_hub._apply(batch(1, entry_of(1, 1, 10.0)))
    quiet_hub.disconnect(client)
    woken = client.woken
    quiet_hub._apply(batch(2, entry_of(1, 2, 11.0), entry_of(2, 1, 20.0)))
    assert client.woken == woken
    assert not quiet_hub.clients


def test_old_quotes_that_nobody_follows_are_forgotten(quiet_hub: Hub) -> None:
    day = 86_400_000
    old, kept = entry_of(1, 1, 10.0), entry_of(2, 1, 10.0)
    client_of(quiet_hub, 2)
    recent = entry_of(3, 1, 10.0)._replace(broker_ms=old.broker_ms + day)
    newest = entry_of(4, 1, 10.0)._replace(broker_ms=old.broker_ms + 8 * day)
    quiet_hub._apply(batch(1, old, kept, recent, newest))
    quiet_hub._forget_old()
    assert set(quiet_hub.entries) == {2, 3, 4}
    quiet_hub._apply(batch(2, old))
    assert quiet_hub.entries[1] == old


async def test_a_hub_that_starts_loads_what_is_known_and_follows(db: None, valkey: redis.Redis, feed: ScriptedFeed) -> None:
    await feed.tick(1, 10.0)
    await feed.write()
    hub = await get_hub()
    try:
        assert hub.entries[1].seq == 1
        assert hub.feed_view().state == "live"
        await feed.tick(1, 11.0)
        await auntil(lambda: hub.entries[1].seq == 2)
        await auntil(lambda: hub.settled)
    finally:
        await close_hub()


async def test_after_a_loss_clients_are_owed_whole_quotes(hub: Hub, feed: ScriptedFeed) -> None:
    client = client_of(hub, 1)
    await feed.tick(1, 10.0)
    await auntil(lambda: hub.settled and 1 in hub.entries)
    client.ticks(hub)
    client.told("")
    feed.n += 1
    feed.newest[1] = entry_of(1, 2, 11.0, depth_changed=False)
    await auntil(lambda: not hub.settled)
    await auntil(lambda: hub.settled)
    (tick,) = client.ticks(hub)
    assert (tick[1], "depth" in tick[2]) == (2, True)
    assert [message["state"] for message in client.told("feed:status")] == ["reconnecting", "live"]


async def test_a_slow_farewell_is_cut_short(hub: Hub) -> None:
    client = client_of(hub, 1)
    await close_hub(4001)
    assert client.closed == [4001]
    assert not hub.clients


class OneOfTwo(ScriptedFeed):
    """One of two shards, that says so."""

    def status(self) -> FeedStatus:
        return super().status()._replace(counters={"feed_shards": 2})


async def test_a_shard_that_is_gone_is_told_with_its_number_while_the_other_goes_on(valkey: redis.Redis) -> None:
    stays, goes = OneOfTwo(shard=0), OneOfTwo(shard=1)
    try:
        async with stays.reporting():
            async with goes.reporting():
                hub = await get_hub()
                client = client_of(hub, 1, 2)
                await auntil(lambda: hub.settled and hub.feed_view().state == "live")
                await goes.tick(2, 20.0)
                await auntil(lambda: 2 in hub.entries)
            await auntil(lambda: hub.feed_view().scope == "shard:1")
            assert hub.feed_view().state == "reconnecting"
            assert hub.settled  # nothing of the other is in doubt
            await stays.tick(1, 10.0)
            await auntil(lambda: 1 in hub.entries)
            again = OneOfTwo(shard=1, epoch=goes.epoch + 1)  # it begins anew
            async with again.reporting():
                await auntil(lambda: hub.feed_view().state == "live")
        told = [(message["state"], message["scope"]) for message in client.told("feed:status")]
        assert ("reconnecting", "shard:1") in told
        assert told[-1] == ("live", "all")
        assert ("reconnecting", "all") not in told[told.index(("reconnecting", "shard:1")) :]
    finally:
        await close_hub()


@pytest.mark.parametrize(("state", "unfollowed"), [("live", True), ("quiet", True), ("stale", False)])
async def test_what_a_feed_that_is_live_never_told_is_unfollowed_unless_it_expired(
    quiet_hub: Hub, monkeypatch: pytest.MonkeyPatch, state: str, unfollowed: bool
) -> None:
    for name in ("UNTOLD_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(hub_quotes, name, 0.0)
    await nifty_options(date(2026, 9, 15), date(2026, 9, 22))
    over, stored, told, unknown = option_of(0, 24_200.0, "CE"), option_of(1, 24_200.0, "CE"), option_of(1, 24_250.0, "CE"), 7
    quiet_hub._quotes.take_all((0, entry_of(each, 1, 10.0)) for each in (over, stored, told, unknown))  # as MongoDB has them
    await quiet_hub._quotes.untold_step()
    assert quiet_hub.unfollowed == set(), "without a feed they are all that is known"
    quiet_hub._apply(BusBatch(0, 7, 1, [entry_of(told, 1, 11.0)], FeedStatus(0, 7, 1, state, 7, NOON_MS, NOON_MS, {}, {})))
    await quiet_hub._quotes.untold_step()
    assert quiet_hub.unfollowed == ({stored, unknown} if unfollowed else set())
    assert set(quiet_hub.entries) == {over, stored, told, unknown}
    quiet_hub._apply(BusBatch(0, 7, 2, [entry_of(stored, 1, 12.0)], None))
    assert stored not in quiet_hub.unfollowed


async def test_listings_of_chains_are_read_again_when_the_feed_has_another_master(quiet_hub: Hub) -> None:
    await nifty_options(date(2026, 9, 22))
    client = client_of(quiet_hub)
    quiet_hub._apply(BusBatch(0, 7, 1, [], FeedStatus(0, 7, 1, "live", 7, NOON_MS, NOON_MS, {}, {})))
    await quiet_hub.subscriptions.add_chain(client, ChainChannel("NIFTY", "@w0", "atm30"))
    (series,) = client.outbox.chains
    await nifty_options(date(2026, 9, 15), first=7)  # no part of it: a call of its own, beside
    await database_sync_to_async(Instrument.objects.filter(id=option_of(7, 24_200.0, "CE")).update)(
        expiry=datetime(2026, 9, 22, 18, 29, 59, tzinfo=UTC), strike_price=24_450.0
    )
    for cause, strikes in (("spot", 9), ("master", 10)):
        quiet_hub._take_notice(Notice(universe=UniverseNotice(NOON_MS, [cause], {}, {})))
        await quiet_hub._chains.load_step()
        await quiet_hub._chains.turn_step()
        assert len(series.window) == strikes, cause
