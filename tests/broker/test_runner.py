"""The feed process against the exchange: what it does when the connection, the token or the process itself goes away."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import struct
import time
from collections import Counter
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from broker import sessions
from broker.journal_segments import segment_paths
from broker.management.commands.runfeed import feed_config
from broker.runner import FeedRunner
from broker.upstox import MarketDataFeedV3_pb2 as pb
from instruments.models import Instrument, SubscriptionRule
from instruments.selectors import instrument_ids
from marketdata import store
from marketdata.domain.feed_status import FeedStatus
from marketdata.live_state import quotes_read
from marketdata.models import OHLC, Gap, MarketStatus
from tests.broker.test_sessions import allow, app_settings
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import RunningFeed, StartFeed, start_feed  # noqa: F401 - a fixture
from tests.faults.servers import paused
from tests.payloads import option_feed
from tests.payloads.figures import expected_ids
from tests.zones import ist

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


def _follow(exchange: RunningExchange, count: int = 60) -> list[str]:
    """Load the exchange's master and follow `count` of its keys."""
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/NSE.json.gz", verbosity=0)
    keys = list(Instrument.objects.filter(segment="NSE_FO").order_by("id").values_list("instrument_key", flat=True)[:count])
    SubscriptionRule.objects.create(name="some", what="keys", keys=keys)
    return keys


def assert_adds_up(status: FeedStatus) -> None:
    """What came in at each hop is what went out of it, and what waits there; also in the middle of everything."""
    count = status.counters
    frames = count["frames_received_total"]
    assert frames == count["frames_journalled_total"] + count["frames_unjournalled_total"] + count["frames_waiting"]
    assert frames == count["frames_decoded_total"] + count["frames_rejected_total"]
    folded = ("ticks_changed_total", "repeated_total", "out_of_order_total", "ticks_unknown_total")
    assert count["ticks_decoded_total"] == sum(count[name] for name in folded)
    finished = ("candles_recorded_total", "candles_overtaken_total", "candles_unwritten_total", "candles_waiting")
    assert count["candles_finished_total"] == sum(count[name] for name in finished)
    told = ("quotes_published_total", "merged_total", "quotes_forgotten_total", "quotes_unsent_total", "quotes_waiting")
    assert count["ticks_changed_total"] == sum(count[name] for name in told)


def test_the_feed_goes_live_tells_the_market_and_ends_in_order(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    keys = _follow(exchange)
    feed = start_feed(exchange.url)
    status = feed.wait_for(lambda status: status.state == "live" and status.counters["ticks_stored_total"] > 200)
    assert status.segments["NSE_FO"] == "NORMAL_OPEN"
    assert status.counters["subscribed_full"] == len(keys)
    assert status.counters["authorize_calls_total"] == 1
    assert len(json.loads((feed.var / "journal" / "authorize.json").read_text())) == 1, "beside the shards' folders: all share it"
    assert_adds_up(status)
    assert {entry.key for entry in quotes_read().values()} == set(keys)
    assert feed.stop() == 0
    last = feed.status()
    assert last is not None
    assert last.state == "closed", "the last report outlives the process"
    assert_adds_up(last)
    assert (last.counters["frames_waiting"], last.counters["quotes_waiting"]) == (0, 0)
    assert MarketStatus.objects.filter(segment="NSE_FO", status="NORMAL_OPEN").count() == 1
    assert "everything stored" in feed.log()
    assert exchange.token not in feed.log()
    assert "code=" not in feed.log()


def test_a_dropped_connection_is_made_anew_and_the_hole_is_a_gap(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    keys = _follow(exchange)
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.counters["ticks_decoded_total"] > 200)
    dropped = exchange.fault(kind="drop")
    assert dropped["faults"]["drop"] == 1
    status = feed.wait_for(lambda status: status.counters["gaps_total"] == 1 and status.state == "live")
    assert status.counters["reconnects_total"] == 1
    feed.wait_for(lambda status: status.counters["subscribed_full"] == len(keys))
    assert feed.stop() == 0
    (gap,) = Gap.objects.all()
    assert gap.cause == "disconnected"
    assert gap.end is not None
    assert 0 < (gap.end - gap.start).total_seconds() < 30


@pytest.mark.long
def test_a_connection_lost_while_the_store_hangs_is_made_anew_and_its_hole_is_one_gap(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    keys = _follow(exchange)
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.state == "live" and status.counters["ticks_stored_total"] > 100)
    pid = connection.get_database().client.admin.command("serverStatus")["pid"]  # type: ignore[attr-defined]  # of the backend
    with paused(int(pid)):
        assert exchange.fault(kind="drop")["faults"]["drop"] == 1
        status = feed.wait_for(lambda status: status.counters["reconnects_total"] == 1 and status.state == "live")
        assert status.counters["subscribed_full"] == len(keys)
        assert (status.counters["gaps_waiting"], status.counters["gaps_total"]) == (1, 0)
    feed.wait_for(lambda status: status.counters["gaps_total"] == 1 and not status.counters["gaps_waiting"])
    assert feed.stop() == 0, feed.log()
    assert Gap.objects.count() == 1


OPEN_MS = ist("2026-11-16 10:00")
MINUTE_MS = 60_000
HOLE = (OPEN_MS + 4 * MINUTE_MS + 50_000, OPEN_MS + 7 * MINUTE_MS + 20_000)
"""In market time: from the last trade before it to the first one behind it."""


def _recording(folder: Path, *, minutes: int = 10, hole: tuple[int, int] = HOLE) -> Path:
    """Write minutes of two options that trade each ten seconds, with a hole; the first one's updates carry the minute before's bar."""
    frames = [pb.FeedResponse(type=pb.market_info, currentTs=OPEN_MS)]
    frames[0].marketInfo.segmentStatus["NSE_FO"] = pb.NORMAL_OPEN
    for second in range(0, minutes * 60, 10):
        now_ms = OPEN_MS + second * 1000
        if hole[0] < now_ms < hole[1]:
            continue
        response = pb.FeedResponse(type=pb.live_feed, currentTs=now_ms)
        for key in ("NSE_FO|51414", "NSE_FO|51420"):
            feed = option_feed(last_price=100 + second / 10, volume=75 * (second + 1), last_trade_ms=now_ms)
            bars = feed.fullFeed.marketFF.marketOHLC
            bars.ohlc[1].ts = now_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS
            if key.endswith("20") or second < 60:
                bars.ClearField("ohlc")
            response.feeds[key].CopyFrom(feed)
        frames.append(response)
    path = folder / "minutes.frames.bin"
    path.write_bytes(b"".join(struct.pack(">I", len(data)) + data for data in (each.SerializeToString() for each in frames)))
    return path


@pytest.mark.long
def test_candles_close_and_are_confirmed_in_market_time_and_a_leap_of_it_is_a_gap(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    exchange = start_exchange("--replay", str(_recording(tmp_path)), "--speed", "0")
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/complete.json.gz", verbosity=0)
    keys = ["NSE_FO|51414", "NSE_FO|51420"]
    SubscriptionRule.objects.create(name="recorded", what="keys", keys=keys)
    feed = start_feed(exchange.url)
    exchange.wait_for(lambda state: bool(state["finished"]), seconds=60)
    feed.wait_for(lambda status: status.counters["gaps_total"] == 1)
    status = feed.wait_for(lambda status: status.counters["candles_recorded_total"] >= 15 and not status.counters["candles_waiting"])
    assert feed.stop() == 0, feed.log()
    assert status.counters["candles_published_total"] >= 15
    assert_adds_up(status)
    ids = instrument_ids(keys)
    minutes = {
        key: [
            ((round(row.start.timestamp() * 1000) - OPEN_MS) // MINUTE_MS, row.state)
            for row in OHLC.objects.filter(instrument=number).order_by("start")
        ]
        for key, number in ids.items()
    }
    traded = [0, 1, 2, 3, 4, 7, 8]
    assert minutes["NSE_FO|51420"] == [(minute, "closed") for minute in traded]
    barred = sorted({*traded, 6})  # the first update behind the hole has the bar of a minute that we did not see
    assert minutes["NSE_FO|51414"] == [(minute, "closed" if minute == 4 else "confirmed") for minute in barred]
    (gap,) = Gap.objects.all()
    assert gap.end is not None
    assert (gap.cause, round(gap.start.timestamp() * 1000), round(gap.end.timestamp() * 1000)) == ("silent", *HOLE)


def test_a_feed_killed_in_mid_minute_closes_that_minute_whole_and_its_holes_are_in_market_time(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    recording = _recording(tmp_path, minutes=40, hole=(OPEN_MS, OPEN_MS))  # two minutes of ours: more than two starts take
    exchange = start_exchange("--replay", str(recording), "--speed", "20")
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/complete.json.gz", verbosity=0)
    SubscriptionRule.objects.create(name="recorded", what="keys", keys=["NSE_FO|51414", "NSE_FO|51420"])
    var = tmp_path / "var"
    var.mkdir()
    feed = start_feed(exchange.url, var)
    feed.wait_for(lambda status: status.data_ms >= OPEN_MS + 2 * MINUTE_MS + 20_000)
    feed.process.send_signal(signal.SIGKILL)
    assert feed.process.wait(10) == -signal.SIGKILL
    again = start_feed(exchange.url, var)
    again.wait_for(lambda status: status.counters["gaps_total"] == 1 and status.data_ms >= OPEN_MS + 3 * MINUTE_MS + 10_000)
    assert exchange.fault(kind="drop")["faults"]["drop"] == 1
    again.wait_for(lambda status: status.counters["gaps_total"] >= 2 and status.data_ms >= OPEN_MS + 4 * MINUTE_MS)
    again.wait_for(lambda status: not status.counters["candles_waiting"])
    assert again.stop() == 0, again.log()
    killed_hole, dropped_hole = Gap.objects.order_by("start")[:2]
    assert (killed_hole.cause, dropped_hole.cause) == ("stopped", "disconnected")
    for gap in (killed_hole, dropped_hole):
        assert gap.end is not None
        assert OPEN_MS + 2 * MINUTE_MS <= gap.start.timestamp() * 1000 <= gap.end.timestamp() * 1000 < OPEN_MS + 40 * MINUTE_MS
    without_bars = instrument_ids(["NSE_FO|51420"])["NSE_FO|51420"]
    rows = OHLC.objects.filter(instrument=without_bars).order_by("start")[:3]
    assert [(row.state, row.open) for row in rows] == [("closed", 100.0), ("closed", 106.0), ("closed", 112.0)], "each from its first trade"
    killed = rows[2]
    assert killed.volume == 75 * (int(killed.close * 10) - 1000 - 110), "counted from the minute before"


@pytest.mark.long
def test_a_killed_feed_resumes_with_nothing_lost_and_nothing_doubled(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    var = tmp_path / "var"
    var.mkdir()
    # a store that is written seldom: the kill finds much in the journal that is not in MongoDB
    feed = start_feed(exchange.url, var, TRADINGOK_BATCH_MS="8000", TRADINGOK_BATCH_TICKS="20000")
    feed.wait_for(lambda status: status.counters["ticks_decoded_total"] > 500)
    feed.process.send_signal(signal.SIGKILL)
    assert feed.process.wait(10) == -signal.SIGKILL
    stored_before = store.ticks_collection().count_documents({})
    again = start_feed(exchange.url, var)
    again.wait_for(lambda status: status.counters["ticks_stored_total"] > 800 and status.state == "live")
    assert stored_before < 500, "the kill was to find ticks that were only journalled"
    assert again.stop() == 0, again.log()
    expected = expected_ids(again.journal)
    assert Counter(row["_id"] for row in store.ticks_collection().find({}, {"_id": 1})) == expected
    assert max(expected.values()) == 1
    assert len(segment_paths(again.journal)) >= 2
    assert "reading the journal" in again.log()
    (gap,) = Gap.objects.all()
    assert gap.cause == "stopped"
    assert gap.end is not None
    assert 0 < (gap.end - gap.start).total_seconds() < 60


@pytest.mark.long
def test_an_expired_token_is_no_reconnect_storm_and_another_one_is_taken_up(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.state == "live")
    exchange.fault(kind="expire_token", drop=True)
    status = feed.wait_for(lambda status: status.state == "token_expired")
    calls = status.counters["authorize_calls_total"]
    with app_settings(exchange.url):
        dialog, state = sessions.sign_in_begin()
        code, _ = sessions.parse_callback(allow(dialog))
        sessions.sign_in_finish(code=code, state=state, expected_state=state)
    status = feed.wait_for(lambda status: status.state == "live")
    assert calls <= 3
    assert status.counters["authorize_calls_total"] == calls + 1
    assert feed.stop() == 0


def test_a_second_feed_of_the_shard_is_refused(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    first = start_feed(exchange.url)
    first.wait_for(lambda status: status.state == "live")
    same_folder = start_feed(exchange.url, tmp_path)
    assert same_folder.process.wait(60) == 1
    assert "another feed" in same_folder.log()
    other = tmp_path / "other"
    other.mkdir()
    other_folder = start_feed(exchange.url, other)
    assert other_folder.process.wait(60) == 1
    assert "another feed runs shard 0" in other_folder.log()
    assert first.process.poll() is None


@pytest.mark.long
def test_a_feed_outside_hours_is_quiet_and_its_restarts_leave_no_gap(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    exchange.fault(kind="holiday")
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.state == "quiet" and status.counters["subscribed_full"] > 0)
    assert exchange.fault(kind="drop")["faults"]["drop"] == 1
    status = feed.wait_for(lambda status: status.counters["holes_idle_total"] == 1 and status.state == "quiet")
    assert status.counters["reconnects_total"] == 1
    assert feed.stop() == 0
    again = start_feed(exchange.url)
    again.wait_for(lambda status: status.epoch > feed_epoch(feed) and status.counters["holes_idle_total"] == 1 and status.state == "quiet")
    assert again.stop() == 0
    assert not Gap.objects.exists()


def feed_epoch(feed: RunningFeed) -> int:
    """The epoch that a feed's log names."""
    return int(feed.log().partition("epoch ")[2].split()[0])


@pytest.mark.long
def test_a_full_disk_stops_nothing_and_is_told_and_all_is_journalled_when_it_takes_again(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.state == "live" and status.counters["journal_bytes"] > 50_000)
    pid, unlimited = feed.process.pid, resource.prlimit(feed.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000, unlimited[1]))  # a file may have no more bytes
    status = feed.wait_for(lambda status: "the journal's disk takes nothing" in status.detail and status.counters["frames_waiting"] > 30)
    assert status.counters["journal_failures_total"] >= 1
    assert status.state == "live", "clients are served all the same"
    assert_adds_up(status)
    stored = status.counters["ticks_stored_total"]
    feed.wait_for(lambda status: status.counters["ticks_stored_total"] > stored)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    status = feed.wait_for(lambda status: not status.detail and status.counters["frames_waiting"] < 10)
    assert_adds_up(status)
    assert feed.stop() == 0, feed.log()
    last = feed.status()
    assert last is not None
    assert (last.counters["frames_unjournalled_total"], last.counters["frames_waiting"]) == (0, 0)
    expected = expected_ids(feed.journal)
    assert Counter(row["_id"] for row in store.ticks_collection().find({}, {"_id": 1})) == expected


@pytest.mark.long
def test_a_disk_that_stays_full_is_an_exit_code_of_1(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
) -> None:
    exchange = start_exchange("--seed", "3")
    _follow(exchange)
    feed = start_feed(exchange.url)
    feed.wait_for(lambda status: status.state == "live" and status.counters["journal_bytes"] > 50_000)
    resource.prlimit(feed.process.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    feed.wait_for(lambda status: "the journal's disk takes nothing" in status.detail)
    assert feed.stop() == 1
    last = feed.status()
    assert last is not None
    assert last.counters["frames_unjournalled_total"] > 0
    assert last.counters["frames_waiting"] == 0
    assert_adds_up(last)


def test_a_feed_whose_store_writer_has_ended_ends_with_1(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    exchange = start_exchange("--seed", "3")
    _follow(exchange)

    async def run() -> int:
        runner = FeedRunner(feed_config(0, 1))
        running = asyncio.create_task(runner.run())
        deadline = time.monotonic() + 60
        while not runner.counts["ticks_decoded_total"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        runner.writer._abandoned = True  # as after any way out of its thread
        return await running

    with app_settings(exchange.url, VAR=tmp_path):
        assert asyncio.run(run()) == 1
