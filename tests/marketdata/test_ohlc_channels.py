"""The charts of a hub over the real store: history and stream meet without a hole, and what was missed is read again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from channels.db import database_sync_to_async

from marketdata import ohlc_channels
from marketdata.domain.candle import DAY_MS, Candle, day_start_ms, fold_candles
from marketdata.domain.gap import GapNotice
from marketdata.models import Gap
from marketdata.ohlc_channels import RECENT_MINUTES, OhlcChannels, stored_read
from marketdata.outbox import Outbox
from marketdata.selectors import aware
from tests.marketdata.way_out import MINUTE_MS, NOON_MS, minute_of, store_candles

pytestmark = pytest.mark.django_db

KEY = "NSE_FO|1"


class Market:
    """Charts of a market whose time is the newest minute's, and one client of them."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS
        self.woken: list[Outbox] = []
        self.charts = OhlcChannels(lambda: self.now_ms, self.woken.extend)
        self.client = Outbox()
        self.candles: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.snapshots: list[str] = []

    def take(self, *minutes: Candle, shard: int = 0) -> set[Outbox]:
        self.now_ms = max([self.now_ms, *(minute.start_ms for minute in minutes)])
        return self.charts.take(shard, minutes)

    def drain(self) -> dict[int, float]:
        """Apply what the client is given; return start → close of all it has."""
        for frame in self.client.drain_charts():
            message = json.loads(frame)
            interval = message["interval"]
            if "snapshot" in message:
                self.snapshots.append(interval)
                self.candles = {which: values for which, values in self.candles.items() if which[0] != interval}
            for item in message.get("candles", [message]):
                self.candles[interval, item["candle"][0]] = (*item["candle"], item["state"])
        return {start: values[4] for (_interval, start), values in sorted(self.candles.items())}


@pytest.fixture
def market(db: None) -> Market:
    return Market()


def minutes_of(*numbers: int, close: float = 101.0, state: str = "confirmed") -> list[Candle]:
    return [minute_of(1, NOON_MS + number * MINUTE_MS, close + number, state) for number in numbers]


def closes(*numbers: int) -> dict[int, float]:
    return {NOON_MS + number * MINUTE_MS: 101.0 + number for number in numbers}


# --- the newest minutes ---------------------------------------------------------------------------------------------------
def test_the_newest_minutes_of_each_instrument_are_kept(market: Market) -> None:
    market.take(*minutes_of(*range(8)), minute_of(2, NOON_MS, 5.0))
    market.take(*minutes_of(7, close=201.0), shard=0)
    kept = market.charts.recent_minutes(1)
    assert [minute.start_ms for minute in kept] == [NOON_MS + number * MINUTE_MS for number in range(8 - RECENT_MINUTES, 8)]
    assert kept[-1].close == 208.0
    assert [minute.close for minute in market.charts.recent_minutes(2)] == [5.0]
    assert market.charts.recent_minutes(3) == []
    market.take(*minutes_of(6, close=301.0))
    assert [minute.close for minute in market.charts.recent_minutes(1)[-2:]] == [307.0, 208.0], "a late correction"


def test_a_feed_that_goes_back_begins_anew(market: Market) -> None:
    market.take(*minutes_of(5, 6))
    market.take(*minutes_of(1, state="live"))
    assert market.charts.recent_minutes(1) == minutes_of(1, state="live")
    market.charts.begin_again(1)
    assert market.charts.recent_minutes(1), "another shard's"
    market.charts.begin_again(0)
    assert market.charts.recent_minutes(1) == []


def test_what_a_shard_that_runs_no_more_has_told_is_no_part_of_the_newest_minutes(market: Market) -> None:
    market.take(*minutes_of(0), *minutes_of(1, state="live"), shard=1)
    market.take(*minutes_of(60, 61))  # two feeds have become one
    assert market.charts.recent_minutes(1) == minutes_of(60, 61)
    assert market.charts.recent_minutes(2) == []


def test_minutes_of_instruments_that_trade_no_more_are_forgotten(market: Market) -> None:
    market.take(*minutes_of(0), minute_of(2, NOON_MS + 2 * 86_400_000, 5.0))
    market.charts.forget_old()
    assert (market.charts.recent_minutes(1), len(market.charts.recent_minutes(2))) == ([], 1)


# --- history and stream ---------------------------------------------------------------------------------------------------
async def test_the_history_comes_first_and_then_each_change(market: Market) -> None:
    await store_candles(minutes_of(-3, -2, -1))
    market.charts.follow(market.client, 1, KEY, "1m", 2)
    assert market.drain() == {}
    await market.charts.load_step()
    assert market.woken == [market.client]
    assert market.drain() == closes(-2, -1)
    assert market.take(*minutes_of(0, state="live")) == {market.client}
    assert market.drain() == closes(-2, -1, 0)
    assert market.take(*minutes_of(0, state="live")) == set()
    assert market.snapshots == ["1m"]


async def test_a_second_client_shares_the_series_and_its_bytes(market: Market) -> None:
    await store_candles(minutes_of(-1))
    other = Outbox()
    first = market.charts.follow(market.client, 1, KEY, "1m", 10)
    await market.charts.load_step()
    assert market.charts.follow(other, 1, KEY, "1m", 10) is first
    assert len(list(other.drain_charts())) == 1, "at once"
    market.drain()
    assert market.take(*minutes_of(0)) == {market.client, other}
    assert next(market.client.drain_charts()) is next(other.drain_charts())
    market.charts.unfollow(other, first)
    assert market.take(*minutes_of(1)) == {market.client}


@pytest.mark.parametrize("interval", ["1m", "5m", "1d"])
async def test_a_feed_that_goes_on_while_history_is_read_leaves_no_hole(market: Market, interval: str) -> None:
    """As in life: each finished minute is told at once, and is in the store two minutes later; the client comes at each moment of it."""
    late, lateness = [], 2
    for number in range(24):
        finished = minute_of(1, NOON_MS + number * MINUTE_MS, 101.0 + number)
        market.take(finished._replace(state="live", close=100.0))
        client = Outbox()
        series = market.charts.follow(client, 1, KEY, interval, 300)
        reading = asyncio.create_task(market.charts.load_step())
        await asyncio.sleep(0.001 * (number % 7))  # the reading is somewhere by now
        market.take(finished)
        late.append(finished)
        if len(late) > lateness:
            await store_candles([late[-1 - lateness]])
        await reading
        newest = minute_of(1, NOON_MS + (number + 1) * MINUTE_MS, 100.0, "live")
        market.take(newest)
        got = [item for frame in client.drain_charts() for item in json.loads(frame).get("candles", [json.loads(frame)])]
        whole = fold_candles([*late, newest], interval) if interval != "1m" else [*late, newest]
        by_start = {item["candle"][0]: item["candle"] for item in got}
        assert [by_start[start] for start in sorted(by_start)] == [list(candle[2:9]) for candle in whole]
        market.charts.unfollow(client, series)
        market.charts._drop(series)


async def test_the_store_is_away_and_comes_back(market: Market, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.errors import ServerSelectionTimeoutError

    monkeypatch.setattr(ohlc_channels, "RETRY_SECONDS", 0.0)
    await store_candles(minutes_of(-1))
    market.charts.follow(market.client, 1, KEY, "1m", 10)
    with monkeypatch.context() as away:

        def fail(*_: object) -> None:
            raise ServerSelectionTimeoutError("no server")

        away.setattr(ohlc_channels, "stored_read", fail)
        await market.charts.load_step()
        market.take(*minutes_of(0))
        assert market.drain() == {}
    await market.charts.load_step()
    assert market.drain() == closes(-1, 0)


# --- what is read again ---------------------------------------------------------------------------------------------------
async def test_healing_changes_what_is_shown_of_every_interval(market: Market) -> None:
    long_ago = minutes_of(*range(-165, -155))
    await store_candles([*long_ago[:5], *fold_candles(long_ago[:5], "5m"), *minutes_of(-1)])
    for interval in ("1m", "5m", "10m"):
        market.charts.follow(market.client, 1, KEY, interval, 300)
    await market.charts.load_step()
    market.drain()
    assert market.candles["10m", long_ago[0].start_ms][4] == long_ago[4].close
    healed = [minute._replace(state="backfilled") for minute in long_ago[5:]]
    rolled = fold_candles(healed, "5m")
    await store_candles([*healed, *rolled])
    market.take(*minutes_of(0))
    assert market.charts.correct([*healed, *rolled]) == {market.client}
    await market.charts.load_step()
    market.drain()
    assert {values[-1] for (interval, _), values in market.candles.items() if interval == "1m"} == {"confirmed", "backfilled"}
    assert market.candles["5m", healed[0].start_ms][4:6] == (healed[-1].close, 375)
    assert market.candles["10m", long_ago[0].start_ms][4:] == (healed[-1].close, 750, None, "backfilled")


async def test_who_comes_by_a_contracts_new_key_is_told_by_that(market: Market) -> None:
    await store_candles(minutes_of(*range(-3, 0)))
    market.charts.follow(market.client, 1, "NSE_FO|7", "1m", 300)
    await market.charts.load_step()
    late = Outbox()
    market.charts.follow(late, 1, KEY, "1m", 300)
    assert [json.loads(push)["key"] for push in late.drain_charts()] == [KEY]


@pytest.mark.parametrize("named", [[], [1]])
async def test_a_gap_makes_a_finished_candle_doubtful_until_it_is_healed(market: Market, named: list[int]) -> None:
    await store_candles(minutes_of(*range(-60, 0)))
    market.charts.follow(market.client, 1, KEY, "5m", 300)
    minutes = market.charts.follow(Outbox(), 1, KEY, "1m", 300)
    await market.charts.load_step()
    told = GapNotice("", 0, NOON_MS - 29 * MINUTE_MS, NOON_MS - 28 * MINUTE_MS, "disconnected", "open", "", named, 0)
    row = Gap(start=aware(told.start_ms), end=aware(told.end_ms), cause=told.cause, instruments=named)
    for state, says in (("open", "closed"), ("healed", "confirmed")):
        row.heal_state = state
        await database_sync_to_async(row.save)()
        market.charts.correct([], [told._replace(heal_state=state)])
        assert market.charts._due[minutes] > 0.0, "of a minute a gap says nothing"
        await market.charts.load_step()
        market.drain()
        assert market.candles["5m", NOON_MS - 30 * MINUTE_MS][-1] == says
        assert {values[-1] for values in market.candles.values()} == {says, "confirmed"}


async def test_healing_corrects_the_newest_minutes_too(market: Market) -> None:
    market.take(*minutes_of(0, 1, state="closed"), minute_of(1, NOON_MS + 2 * MINUTE_MS, 5.0))
    better, worse = minute_of(1, NOON_MS, 55.0, "backfilled"), minute_of(1, NOON_MS + 2 * MINUTE_MS, 55.0, "backfilled")
    market.charts.correct([better, worse, minute_of(1, NOON_MS - MINUTE_MS, 55.0, "backfilled"), minute_of(9, NOON_MS, 55.0, "backfilled")])
    assert [(minute.close, minute.state) for minute in market.charts.recent_minutes(1)] == [
        (55.0, "backfilled"),
        (102.0, "closed"),
        (5.0, "confirmed"),
    ]
    assert market.charts.recent_minutes(9) == []


async def test_after_a_loss_a_series_is_read_at_once_and_once_more(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ohlc_channels, "UNSURE_SECONDS", 0.0)
    market.charts.follow(market.client, 1, KEY, "1m", 10)
    await market.charts.load_step()
    market.charts.read_again()
    await store_candles(minutes_of(-2))
    await market.charts.load_step()
    assert market.drain() == closes(-2)
    await store_candles(minutes_of(-1))  # it was lost too, and late
    await market.charts.load_step()
    assert market.drain() == closes(-2, -1)
    await store_candles(minutes_of(0))
    await market.charts.load_step()
    assert market.drain() == closes(-2, -1), "not for ever"


async def test_what_a_fast_replay_had_not_stored_yet_comes_with_the_second_reading(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a thousand times, reports and the store are many minutes behind what the feed tells."""
    monkeypatch.setattr(ohlc_channels, "UNSURE_SECONDS", 0.0)
    told = minutes_of(*range(30))
    await store_candles(told[:10])
    market.charts.take(0, told)
    market.charts.follow(market.client, 1, KEY, "5m", 300)
    await market.charts.load_step()
    await store_candles(told[10:])
    await market.charts.load_step()
    market.drain()
    volumes = [values[5] for (_interval, _start), values in sorted(market.candles.items())]
    assert volumes == [5 * 75] * 6


async def test_another_run_of_the_feed_forgets_the_last_ones_forming_candle(market: Market) -> None:
    market.charts.follow(market.client, 1, KEY, "1m", 10)
    market.take(*minutes_of(7, state="live"))
    await market.charts.load_step()
    assert market.drain() == closes(7)
    market.charts.begin_again(0)
    market.take(*minutes_of(1, state="live"))
    await market.charts.load_step()
    assert market.drain() == closes(1)


async def test_market_time_of_an_earlier_day_begins_anew(market: Market) -> None:
    """The hub was there before the feed, which replays an earlier day than what is stored."""
    days_later = [minute._replace(start_ms=minute.start_ms + 3 * 86_400_000) for minute in minutes_of(0, 1)]
    await store_candles([*days_later, *minutes_of(-2, -1)])
    market.now_ms = days_later[-1].start_ms
    market.charts.follow(market.client, 1, KEY, "5m", 10)
    await market.charts.load_step()
    assert set(market.drain()) == {NOON_MS - 5 * MINUTE_MS, days_later[0].start_ms}
    market.now_ms = NOON_MS + 10_000
    market.charts.pass_time(market.now_ms)
    await market.charts.load_step()
    market.take(*minutes_of(0, state="live"))
    assert market.drain() == {NOON_MS - 5 * MINUTE_MS: 100.0, NOON_MS: 101.0}
    market.charts.pass_time(market.now_ms - 60_000)
    await market.charts.load_step()
    market.drain()
    assert market.snapshots == ["5m", "5m"], "a little is nothing: shards differ"


async def test_what_was_being_read_when_everything_began_anew_is_not_taken(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay begins in the middle of a reading whose market time is today's: the candles of the replay must form all the same."""
    loop, began = asyncio.get_running_loop(), threading.Event()

    def begin() -> None:
        market.now_ms = NOON_MS - DAY_MS
        market.charts.pass_time(market.now_ms)
        began.set()

    def read_slowly(instrument: int, key: str, interval: str, market_ms: int) -> Any:
        stored = stored_read(instrument, key, interval, market_ms)
        if not began.is_set():
            loop.call_soon_threadsafe(begin)
            assert began.wait(60)
        return stored

    monkeypatch.setattr(ohlc_channels, "stored_read", read_slowly)
    market.charts.pass_time(NOON_MS)
    series = market.charts.follow(market.client, 1, KEY, "5m", 10)
    await market.charts.load_step()
    assert list(market.client.drain_charts()) == [], "not of today"
    await market.charts.load_step()
    assert series.is_filled
    market.take(minute_of(1, NOON_MS - DAY_MS, 101.0))
    assert [candle.state for candle in series.candles()] == ["live"]


def test_market_time_alone_ends_candles(market: Market) -> None:
    async def run() -> None:
        await database_sync_to_async(lambda: None)()
        market.charts.follow(market.client, 1, KEY, "5m", 10)
        market.take(*minutes_of(0))
        await market.charts.load_step()

    asyncio.run(run())
    market.drain()
    assert market.candles["5m", NOON_MS][-1] == "live"
    assert market.charts.pass_time(NOON_MS + 5 * MINUTE_MS) == {market.client}
    market.drain()
    assert market.candles["5m", NOON_MS][-1] == "confirmed"


async def test_a_series_that_nobody_follows_is_dropped_after_a_while(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    series = market.charts.follow(market.client, 1, KEY, "1m", 10)
    await market.charts.load_step()
    assert market.charts.unfollow(market.client, series)
    assert not market.charts.unfollow(market.client, series)
    await market.charts.load_step()
    assert len(market.charts) == 1, "who comes back finds it"
    monkeypatch.setattr(ohlc_channels, "IDLE_SECONDS", -1.0)
    await market.charts.load_step()
    assert len(market.charts) == 0
    assert market.take(*minutes_of(0)) == set()
    assert not market.charts.unfollow(market.client, series)
    await market.charts.load_step()


async def test_nobody_waits_for_the_history_of_what_nobody_follows(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(instrument: int, key: str, interval: str, market_ms: int) -> Any:
        read.append(instrument)
        return stored_read(instrument, key, interval, market_ms)

    monkeypatch.setattr(ohlc_channels, "stored_read", counted)
    for instrument in range(10, 60):  # somebody leafs through charts
        market.charts.unfollow(market.client, market.charts.follow(market.client, instrument, f"K|{instrument}", "1m", 10))
    kept = market.charts.follow(market.client, 1, KEY, "1m", 10)
    await market.charts.load_step()
    assert (read, kept.is_filled) == ([1], True)
    back = market.charts.follow(market.client, 10, "K|10", "1m", 10)
    await market.charts.load_step()
    assert (read, back.is_filled) == ([1, 10], True)


async def test_series_that_nobody_follows_are_bounded(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ohlc_channels, "IDLE_MAX", 3)
    for instrument in range(10):
        market.charts.unfollow(market.client, market.charts.follow(market.client, instrument, f"K|{instrument}", "1m", 10))
    assert len(market.charts) == 3
    kept = market.charts.follow(market.client, 9, "K|9", "1m", 10)
    await market.charts.load_step()
    assert kept.is_filled


async def test_a_reading_that_breaks_is_tried_again(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ohlc_channels, "RETRY_SECONDS", 0.0)
    market.charts.follow(market.client, 1, KEY, "1m", 10)
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise RuntimeError("nobody thought of this")

        broken.setattr(ohlc_channels, "stored_read", fail)
        with pytest.raises(RuntimeError):
            await market.charts.load_step()
    await store_candles(minutes_of(0))
    await market.charts.load_step()
    assert market.drain() == closes(0)


# --- what is read ---------------------------------------------------------------------------------------------------------
def write(candles: Iterable[Candle]) -> None:
    from marketdata import store

    store.candles_write(candles)


def test_what_a_series_needs_is_read_and_nothing_of_the_future(db: None) -> None:
    day_ms = day_start_ms(NOON_MS)
    days = [Candle(1, "1d", day_ms - back * 86_400_000, 1, 1, 1, 1.0 + back, 1, None, "confirmed") for back in range(10)]
    write([*minutes_of(*range(-200, 10)), *fold_candles(minutes_of(*range(-200, 10)), "5m"), *days])
    five = stored_read(1, KEY, "5m", NOON_MS + 30_000)
    assert (five.minutes[-1].start_ms, five.candles[-1].start_ms) == (NOON_MS, NOON_MS)
    assert five.minutes[0].start_ms == five.minutes_from_ms < NOON_MS - 59 * MINUTE_MS
    assert len(five.candles) == len({candle.start_ms for candle in five.candles}) == 41
    week = stored_read(1, KEY, "1w", NOON_MS)
    assert [day.start_ms for day in week.days] == [day_ms - back * 86_400_000 for back in range(7, -1, -1)], "the week before, and Monday"
    assert len(week.minutes) == 201
    assert stored_read(1, KEY, "1m", NOON_MS).minutes == []
    nothing = stored_read(2, KEY, "1h", NOON_MS)
    assert (nothing.minutes, nothing.days, nothing.candles) == ([], [], [])
