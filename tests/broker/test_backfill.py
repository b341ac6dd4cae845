"""Healing, confirming and history against the simulated exchange, and against a broker that answers as it rarely does.

What the exchange has is read by the tests' own requests.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.test import override_settings

from broker import backfill, mending_run
from broker.backfill_plan import Subject, day_ms, day_of
from broker.mending_run import Mended
from broker.models import CandleFetch
from broker.upstox.protocol import AuthExpired, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited
from instruments.models import Instrument, SubscriptionRule, UniverseChange
from instruments.store import spots_write
from marketdata import bus, store
from marketdata.calendar import sessions_record
from marketdata.domain.candle import Candle, candle_id
from marketdata.domain.session import Hours
from marketdata.models import OHLC, Gap, MarketStatus
from marketdata.roll_up import candles_roll_up_minutes
from tests.broker.scripted_http import Reply, ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.payloads import real_data

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

ROOT = Path(__file__).resolve().parents[2]
IST = timezone(timedelta(hours=5, minutes=30))
MINUTE = 60_000
Values = tuple[float, float, float, float, int]


@pytest.fixture(scope="module")
def exchange() -> Iterator[RunningExchange]:
    running = RunningExchange("--instruments", "20", "--seed", "1")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _nobody_was_followed_a_moment_ago() -> None:
    cache.clear()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def at(url: str) -> override_settings:
    return override_settings(
        EXCHANGE_URL=url, UPSTOX_API_URL=url, INSTRUMENT_MASTER_URL=f"{url}/market-quote/instruments/exchange/NSE.json.gz"
    )


def master_of(exchange: RunningExchange, count: int = 8) -> list[Instrument]:
    """Some of the exchange's instruments, in our store as a master would bring them; the first is an index."""
    packed = httpx.get(f"{exchange.url}/market-quote/instruments/exchange/NSE.json.gz", timeout=30).raise_for_status().content
    rows = sorted(json.loads(gzip.decompress(packed)), key=lambda row: (row["segment"] != "NSE_INDEX", row["instrument_key"]))
    chosen = [rows[0], *[row for row in rows if row["instrument_type"] in ("CE", "PE")][: count - 1]]
    return [instrument(number, row["instrument_key"], segment=row["segment"]) for number, row in enumerate(chosen, 1)]


@pytest.fixture
def market(exchange: RunningExchange) -> Iterator[list[Instrument]]:
    """Some of the exchange's instruments, in our store; the first is an index."""
    with at(exchange.url):
        yield master_of(exchange)


def instrument(number: int, key: str = "", **fields: Any) -> Instrument:
    key = key or f"NSE_FO|{number}"
    values: dict[str, Any] = {
        "identity": key,
        "instrument_key": key,
        "segment": key.split("|")[0],
        "exchange": "NSE",
        "instrument_type": "CE",
    }
    values |= {"trading_symbol": key, "name": key, "active_from": moment(0)}
    return Instrument.objects.create(pk=number, **(values | fields))


def bars_of(exchange: RunningExchange, key: str, path: str) -> dict[int, Values]:
    """Start → open, high, low, close, volume as the exchange's REST has it: the test's own request and reading."""
    rows = exchange.get(f"/v3/historical-candle/{path.format(key=quote(key, safe=''))}").raise_for_status().json()["data"]["candles"]
    return {round(datetime.fromisoformat(row[0]).timestamp() * 1000): (row[1], row[2], row[3], row[4], row[5]) for row in rows}


def today_of(exchange: RunningExchange, key: str) -> dict[int, Values]:
    """Today's minutes that are final by now."""
    bars = bars_of(exchange, key, "intraday/{key}/minutes/1")
    final = (time.time_ns() // 1_000_000 - 2 * MINUTE) // MINUTE * MINUTE
    found = {start: values for start, values in sorted(bars.items()) if start <= final - MINUTE}
    if len(found) < 20:
        pytest.skip("India's day has just begun")
    return found


def stored(instrument: int) -> dict[int, tuple[Values, str]]:
    """Start → values and state of an instrument's 1-minute candles."""
    return {
        store.time_ms(row.start): ((row.open, row.high, row.low, row.close, row.volume), row.state)
        for row in OHLC.objects.filter(instrument=instrument, interval="1m")
    }


def give(instrument: int, bars: dict[int, Values], state: str = "confirmed") -> None:
    """Store 1-minute candles as the feed does, and roll them up."""
    store.candles_write(Candle(instrument, "1m", start, *values, None, state) for start, values in bars.items())
    candles_roll_up_minutes((instrument, start) for start in bars)


def gap(start_ms: int, end_ms: int, **fields: Any) -> Gap:
    return Gap.objects.create(start=moment(start_ms), end=moment(end_ms), cause="disconnected", **fields)


def follow(*instruments: Instrument, at_ms: int) -> None:
    """Record, as the feed does, that it follows these since its start."""
    UniverseChange.objects.create(at=moment(at_ms), causes=["start"], entered={each.instrument_key: "full" for each in instruments})


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def last_trading_day(exchange: RunningExchange, key: str) -> tuple[date, dict[int, Values]]:
    """The last day before today of which the exchange has minutes, and them."""
    for back in range(1, 12):
        day = day_of(time.time_ns() // 1_000_000) - timedelta(days=back)
        bars = bars_of(exchange, key, f"{{key}}/minutes/1/{day}/{day}")
        if bars:
            return day, bars
    raise AssertionError("the exchange has no past")


# --- gaps -------------------------------------------------------------------------------------------------------------


def test_a_gap_of_today_is_filled_rolled_up_told_and_marked(exchange: RunningExchange, market: list[Instrument]) -> None:
    index, other = market[0], market[5]
    bars = {instrument.pk: today_of(exchange, instrument.instrument_key) for instrument in (index, other)}
    starts = sorted(bars[index.pk])
    hole = starts[-16:-6]
    for instrument in (index, other):
        give(instrument.pk, {start: values for start, values in bars[instrument.pk].items() if start not in hole})
    edge = {hole[0]: (1.0, 2.0, 1.0, 1.5, 1)}
    give(index.pk, edge, "closed")  # what ticks had made of the minute in which the connection broke
    broken = gap(hole[0] + 20_000, hole[-1] + 5_000)

    mended = backfill.gaps_heal()

    assert (mended.healed, mended.calls, mended.complete) == (1, 2, True)
    broken.refresh_from_db()
    assert (broken.heal_state, broken.heal_attempts, broken.candles_healed) == ("healed", 1, 20)
    assert broken.heal_detail == "20 candles filled, 2 instruments"
    assert broken.healed_at is not None
    for instrument in (index, other):
        ours = stored(instrument.pk)
        assert {start: values for start, (values, _) in ours.items()} == bars[instrument.pk]
        assert {start for start, (_, state) in ours.items() if state == "backfilled"} == set(hole)
    day = OHLC.objects.get(instrument=index.pk, interval="1d")
    assert day.high == max(values[1] for values in bars[index.pk].values())
    assert backfill.gaps_heal() == Mended(), "nothing is left to do, nothing is asked"


def test_a_gap_of_a_past_day_comes_from_the_historical_endpoint(exchange: RunningExchange, market: list[Instrument]) -> None:
    subject = market[0]
    day, bars = last_trading_day(exchange, subject.instrument_key)
    assert len(bars) == 375
    starts = sorted(bars)
    give(subject.pk, {start: bars[start] for start in (*starts[:100], *starts[110:])})
    broken = gap(starts[100], starts[110], instruments=[subject.pk])
    backfill.gaps_heal()
    broken.refresh_from_db()
    assert (broken.heal_state, broken.candles_healed) == ("healed", 10)
    assert {start: values for start, (values, _) in stored(subject.pk).items()} == bars
    (note,) = CandleFetch.objects.all()
    assert (note.instrument, store.time_ms(note.day), note.bars) == (subject.pk, day_ms(day), 375)


def test_two_gaps_of_a_day_take_one_call_and_the_newest_comes_first(exchange: RunningExchange, market: list[Instrument]) -> None:
    subject = market[0]
    _, bars = last_trading_day(exchange, subject.instrument_key)
    starts = sorted(bars)
    give(subject.pk, {start: bars[start] for start in (*starts[:10], *starts[20:100], *starts[110:])})
    gap(starts[10], starts[20], instruments=[subject.pk])
    gap(starts[100], starts[110], instruments=[subject.pk])
    mended = backfill.gaps_heal()
    assert (mended.calls, mended.healed, mended.candles) == (1, 2, 20)
    assert {start: values for start, (values, _) in stored(subject.pk).items()} == bars


def test_minutes_that_nobody_knew_to_be_missing_become_gaps_that_are_healed(exchange: RunningExchange, market: list[Instrument]) -> None:
    first, second = market[0], market[1]
    _, bars = last_trading_day(exchange, first.instrument_key)
    others = last_trading_day(exchange, second.instrument_key)[1]
    starts = sorted(bars)
    lost = starts[50:53]
    for instrument, values in ((first, bars), (second, others)):
        give(instrument.pk, {start: value for start, value in values.items() if start not in (*lost, *starts[100:110])})
    follow(first, second, at_ms=starts[40])
    known = gap(starts[100], starts[110], instruments=[first.pk, second.pk])
    mended = backfill.gaps_heal()
    assert mended.missing == 6
    (found,) = Gap.objects.exclude(pk=known.pk)
    assert (found.cause, found.heal_state, found.candles_healed) == ("missing", "healed", 6)
    assert sorted(found.instruments) == sorted([first.pk, second.pk])
    assert found.end is not None
    assert (store.time_ms(found.start), store.time_ms(found.end)) == (lost[0], lost[-1] + MINUTE)
    assert {start: values for start, (values, _) in stored(second.pk).items()} == others


def test_clients_are_told_the_candles_and_the_gap(exchange: RunningExchange, market: list[Instrument]) -> None:
    subject = market[0]
    _, bars = last_trading_day(exchange, subject.instrument_key)
    starts = sorted(bars)
    give(subject.pk, {start: bars[start] for start in (*starts[:100], *starts[103:])})
    broken = gap(starts[100], starts[103], instruments=[subject.pk])
    told: list[bus.Notice] = []

    async def listen() -> None:
        batches = bus.batches()

        async def read() -> None:
            async for notice in batches:
                assert isinstance(notice, bus.Notice)
                told.append(notice)
                if notice.gaps:
                    return

        reading = asyncio.create_task(read())
        await asyncio.wait_for(batches.opened.wait(), 30)
        await asyncio.to_thread(heal)
        await asyncio.wait_for(reading, 30)
        await batches.aclose()

    def heal() -> None:
        backfill.gaps_heal()

    async_to_sync(listen)()
    candles = {(candle.interval, candle.start_ms): candle for notice in told for candle in notice.candles}
    assert {start for interval, start in candles if interval == "1m"} == set(starts[100:103])
    assert all(candle.state == "backfilled" for (interval, _), candle in candles.items() if interval == "1m")
    assert {"5m", "15m", "1h"} <= {interval for interval, _ in candles}
    (moved,) = told[-1].gaps
    assert (moved.gap, moved.heal_state, moved.candles_healed) == (str(broken.pk), "healed", 3)


def test_a_gap_that_has_hardly_ended_waits(exchange: RunningExchange, market: list[Instrument]) -> None:
    now = time.time_ns() // 1_000_000
    broken = gap(now - 120_000, now - 30_000, instruments=[market[0].pk])
    lasting = Gap.objects.create(start=moment(now - 600_000), cause="disconnected")
    assert backfill.gaps_heal().calls == 0
    assert {row.heal_state for row in Gap.objects.all()} == {"open"}
    assert broken.heal_attempts == lasting.heal_attempts == 0


def test_a_gap_waits_until_its_last_minute_is_final_so_that_one_answer_settles_it(broker: ScriptedServer) -> None:
    instrument(1)
    broken = gap(OPEN + 20_000, OPEN + 2 * MINUTE + 10_000, instruments=[1])
    for early in (3 * MINUTE + 11_000, 4 * MINUTE, 4 * MINUTE + 4_999):
        assert backfill.gaps_heal(now_ms=OPEN + early).calls == 0
    broker.will(candles(*(row(OPEN + minute * MINUTE) for minute in range(5))))
    assert backfill.gaps_heal(now_ms=OPEN + 4 * MINUTE + 5_000) == Mended(calls=1, candles=3, healed=1)
    broken.refresh_from_db()
    assert (broken.heal_state, broken.heal_attempts, broken.candles_healed) == ("healed", 1, 3)


@pytest.mark.parametrize("others", [0, 1], ids=["asked for confirming", "asked for another gap"])
def test_an_outage_that_has_just_ended_stays_one_gap_whoever_asks_first(broker: ScriptedServer, others: int) -> None:
    followed = instrument(1)
    follow(followed, at_ms=OPEN)
    before, after = range(OPEN, OPEN + 10 * MINUTE, MINUTE), OPEN + 29 * MINUTE
    give(1, dict.fromkeys((*before, after), (100.0, 101.0, 99.0, 100.0, 50)), "closed")
    outage = gap(OPEN + 10 * MINUTE, after + 10_000)
    if others:
        gap(OPEN + 2 * MINUTE, OPEN + 3 * MINUTE)
    bars = [row(OPEN + minute * MINUTE) for minute in range(33)]
    broker.will(candles(*bars[:30]), candles(*bars))

    first = backfill.candles_mend(now_ms=OPEN + 30 * MINUTE)

    assert (first.calls, first.missing, first.healed) == (1, 0, others)
    assert [row.pk for row in Gap.objects.filter(heal_state="open")] == [outage.pk], "it waits for its last minute"
    second = backfill.candles_mend(now_ms=OPEN + 33 * MINUTE)
    assert (second.calls, second.missing, second.healed) == (1, 0, 1)
    outage.refresh_from_db()
    assert (outage.heal_detail, Gap.objects.count()) == ("20 candles filled, 1 instrument", 1 + others)


# --- killed, repeated -------------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys, django
django.setup()
from broker.backfill import gaps_heal
def progress(done, total, key):
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
gaps_heal(progress=progress)
"""


def test_healing_that_was_killed_goes_on_and_asks_nothing_twice(exchange: RunningExchange, market: list[Instrument]) -> None:
    chosen = market[:8]
    _, bars = last_trading_day(exchange, chosen[0].instrument_key)
    starts = sorted(bars)
    wanted = {instrument.pk: last_trading_day(exchange, instrument.instrument_key)[1] for instrument in chosen}
    for instrument in chosen:
        give(instrument.pk, {start: values for start, values in wanted[instrument.pk].items() if start not in starts[100:110]})
    broken = gap(starts[100], starts[110], instruments=[instrument.pk for instrument in chosen])
    environment = dict(os.environ) | {"TRADINGOK_EXCHANGE_URL": exchange.url, "DJANGO_SETTINGS_MODULE": "tradingok.settings"}
    killed = subprocess.run([sys.executable, "-c", KILLED, "5"], cwd=ROOT, env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    broken.refresh_from_db()
    assert broken.heal_state == "open"
    done = set(CandleFetch.objects.values_list("instrument", flat=True))
    assert len(done) == 4, "it died as it was about to ask for the fifth"
    mended = backfill.gaps_heal()
    assert mended.calls == len(chosen) - len(done)
    broken.refresh_from_db()
    assert (broken.heal_state, broken.candles_healed) == ("healed", sum(start in wanted[i] for i in wanted for start in starts[100:110]))
    for instrument in chosen:
        assert {start: values for start, (values, _) in stored(instrument.pk).items()} == wanted[instrument.pk]


def test_a_repeat_changes_nothing_and_confirmed_candles_are_never_replaced(exchange: RunningExchange, market: list[Instrument]) -> None:
    subject = market[0]
    _, bars = last_trading_day(exchange, subject.instrument_key)
    starts = sorted(bars)
    ours = dict.fromkeys(starts[100:105], (1.0, 2.0, 0.5, 1.5, 3))
    give(subject.pk, ours)
    gap(starts[95], starts[110], instruments=[subject.pk])
    backfill.gaps_heal()
    after = stored(subject.pk)
    assert {start: after[start] for start in ours} == {start: (values, "confirmed") for start, values in ours.items()}
    before = {row.pk: row.updated_at for row in OHLC.objects.all()}
    Gap.objects.update(heal_state="open")
    CandleFetch.objects.all().delete()
    assert backfill.gaps_heal().candles == 0
    assert {row.pk: row.updated_at for row in OHLC.objects.all()} == before


# --- confirming -------------------------------------------------------------------------------------------------------


def test_minutes_of_which_the_feed_had_no_bar_are_confirmed_in_one_call_an_instrument(
    exchange: RunningExchange, market: list[Instrument]
) -> None:
    first, second = market[0], market[3]
    wanted = {row.pk: today_of(exchange, row.instrument_key) for row in (first, second)}
    starts = sorted(wanted[first.pk])[-12:]
    guess = (10.0, 11.0, 9.0, 10.5, 5)
    for row in (first, second):
        give(row.pk, {start: wanted[row.pk][start] for start in starts[:4]})
        give(row.pk, dict.fromkeys(starts[4:], guess), "closed")
    mended = backfill.candles_mend(seconds=60)
    assert mended.calls == 2
    final = time.time_ns() // 1_000_000 - backfill.CONFIRM_AFTER_MS - 2 * MINUTE
    for row in (first, second):
        ours = stored(row.pk)
        assert {start: ours[start] for start in starts if start < final} == {
            start: (wanted[row.pk][start], "confirmed") for start in starts if start < final
        }
    changed = OHLC.objects.get(pk=candle_id(first.pk, "1m", starts[4]))
    assert (changed.revision, changed.built) == (1, list(guess)), "what ticks had made of it is kept for parity"
    assert backfill.candles_mend(seconds=60).calls == 0, "what the broker does not settle is not asked for again and again"


def test_a_day_that_is_over_is_compared_once(exchange: RunningExchange, market: list[Instrument]) -> None:
    subject = market[0]
    day, bars = last_trading_day(exchange, subject.instrument_key)
    starts = sorted(bars)
    give(subject.pk, {start: bars[start] for start in (*starts[1:40], *starts[42:-1])})
    give(
        market[1].pk, dict.fromkeys((starts[0], starts[-1]), (1.0, 1.0, 1.0, 1.0, 1))
    )  # of these two we have nothing, but the feed was at work
    UniverseChange.objects.create(at=moment(starts[60]), causes=["spot"], left={subject.instrument_key: "rules"})
    UniverseChange.objects.create(at=moment(starts[80]), causes=["spot"], entered={subject.instrument_key: "full"})
    OHLC.objects.filter(pk=candle_id(subject.pk, "1m", starts[70])).delete()
    follow(subject, at_ms=starts[0] - 10 * MINUTE)
    store.candles_write([Candle(subject.pk, "1m", starts[200], 1.0, 1.0, 1.0, 1.0, 0, None, "closed")])
    now = day_ms(day) + 86_400_000 + 8 * 3_600_000  # 08:00 of the day after
    assert backfill.candles_mend(seconds=60, now_ms=now - 7_200_000).calls == 0, "at 06:00 the broker does not have all of it yet"
    mended = backfill.candles_mend(seconds=60, now_ms=now)
    assert (mended.calls - 1, mended.missing) == (1, 4), "one call is the other's"
    named = {minute for row in Gap.objects.all() for minute in range(store.time_ms(row.start), store.time_ms(row.end or row.start), MINUTE)}
    assert named == {starts[0], starts[40], starts[41], starts[-1]}, "not the one at which it was not followed"
    assert {start: values for start, (values, _) in stored(subject.pk).items()} == bars
    assert backfill.candles_mend(seconds=60, now_ms=now).calls == 0


# --- a broker that misbehaves -----------------------------------------------------------------------------------------

DAY = date(2026, 11, 20)  # a Friday
NOW = day_ms(DAY) + 14 * 3_600_000  # 14:00
OPEN = day_ms(DAY) + (9 * 60 + 15) * MINUTE


def row(start_ms: int, price: float = 100.0, volume: int = 50) -> list[Any]:
    text = datetime.fromtimestamp(start_ms / 1000, IST).isoformat(timespec="seconds")
    return [text, price, price + 1, price - 1, price, volume, 7]


def candles(*rows: list[Any]) -> Reply:
    """An answer as the broker gives it: newest first."""
    return Reply(body=json.dumps({"status": "success", "data": {"candles": sorted(rows, reverse=True)}}).encode())


def error(status: int, code: str, text: str, *headers: tuple[str, str]) -> Reply:
    return Reply(status, json.dumps({"status": "error", "errors": [{"error_code": code, "message": text}]}).encode(), headers)


WRONG_KEY = error(400, "UDAPI100011", "Invalid Instrument key")


@pytest.fixture
def broker(server: ScriptedServer) -> Iterator[ScriptedServer]:
    with at(server.url):
        yield server


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(401, "UDAPI100050", "Invalid token used to access API"), AuthExpired),
        (Reply(503, b"<html>maintenance</html>"), FeedUnavailable),
        (Reply(403, b"<html>Sorry, you have been blocked</html>"), FeedRefused),
        (error(429, "UDAPI10005", "Too Many Request Sent", ("Retry-After", "120")), RateLimited),
        (error(404, "UDAPI100012", "Invalid endpoint"), FeedRefused),
        (Reply(200, b"", close_after=0), ProtocolViolation),
    ],
)
def test_what_is_no_answer_to_the_question_burns_nothing(broker: ScriptedServer, reply: Reply, kind: type[Exception]) -> None:
    for number in (1, 2, 3, 4):
        instrument(number)
    broken = gap(OPEN, OPEN + 2 * MINUTE, instruments=[1, 2, 3, 4])
    broker.will(*[reply] * 4)
    with pytest.raises(kind):
        backfill.gaps_heal(now_ms=NOW, seconds=20)
    broken.refresh_from_db()
    assert (broken.heal_state, broken.heal_attempts) == ("open", 0)
    assert not CandleFetch.objects.exists()
    some = kind in (ProtocolViolation, FeedUnavailable)
    assert len(broker.requests) == (mending_run.VIOLATIONS if some else 1), "no other call would fare better"


@pytest.mark.parametrize("reply", [Reply(500, b"{}"), Reply(200, b"[]")])
def test_an_instrument_that_the_broker_fails_at_holds_up_no_other(broker: ScriptedServer, reply: Reply) -> None:
    for number in (1, 2, 3):
        instrument(number)
    older, newer = (gap(OPEN + shift, OPEN + shift + MINUTE, instruments=ids) for shift, ids in ((0, [3]), (5 * MINUTE, [1, 2])))
    for _ in range(2):
        broker.will(reply, candles(row(OPEN), row(OPEN + 5 * MINUTE)), candles(row(OPEN), row(OPEN + 5 * MINUTE)))
        mended = backfill.gaps_heal(now_ms=NOW)
        assert list(mended.failed) == ["NSE_FO|1"]
        broker.replies.clear()
    assert {number: len(stored(number)) for number in (1, 2, 3)} == {1: 0, 2: 1, 3: 1}
    for each, state in ((older, "healed"), (newer, "open")):
        each.refresh_from_db()
        assert each.heal_state == state
    broker.will(candles(row(OPEN + 5 * MINUTE)))
    assert backfill.gaps_heal(now_ms=NOW).healed == 1


def test_without_a_network_nothing_is_burned() -> None:
    instrument(1)
    broken = gap(OPEN, OPEN + 2 * MINUTE, instruments=[1])
    with at("http://127.0.0.1:9"), pytest.raises(FeedUnavailable):
        backfill.gaps_heal(now_ms=NOW)
    broken.refresh_from_db()
    assert broken.heal_state == "open"


def test_after_a_429_it_waits_as_long_as_it_was_told_and_goes_on(broker: ScriptedServer) -> None:
    instrument(1)
    gap(OPEN, OPEN + MINUTE, instruments=[1])
    broker.will(error(429, "UDAPI10005", "Too Many Request Sent", ("Retry-After", "1")), candles(row(OPEN)))
    begin = time.monotonic()
    mended = backfill.gaps_heal(now_ms=NOW)
    assert time.monotonic() - begin >= 1
    assert (mended.calls, mended.healed) == (2, 1)


@pytest.mark.long
@pytest.mark.slow
def test_the_exchange_s_own_limit_is_kept_to(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "20", "--seed", "1")
    with at(exchange.url):
        subject = master_of(exchange, 1)[0]
        path = f"/v3/historical-candle/intraday/{quote(subject.instrument_key, safe='')}/days/1"
        asked, begin = 0, time.monotonic()
        with httpx.Client(base_url=exchange.url, headers=exchange.headers, timeout=30) as client:
            while asked < 500:  # its limit a minute; past 50 a second it says no, too
                asked += client.get(path).status_code == 200
                assert time.monotonic() - begin < 50
        broken = gap(time.time_ns() // 1_000_000 - 600_000, time.time_ns() // 1_000_000 - 300_000, instruments=[subject.pk])
        with pytest.raises(RateLimited):
            backfill.gaps_heal(seconds=5)
        broken.refresh_from_db()
        assert broken.heal_state == "open"
        assert backfill.gaps_heal(seconds=2) == Mended(complete=False), "all wait, whoever was told"


def test_an_expired_token_is_an_error_that_leaves_all_as_it_was(start_exchange: StartExchange) -> None:  # noqa: F811
    exchange = start_exchange("--instruments", "20", "--seed", "1")
    with at(exchange.url):
        subject = master_of(exchange, 1)[0]
        broken = gap(time.time_ns() // 1_000_000 - 600_000, time.time_ns() // 1_000_000 - 300_000, instruments=[subject.pk])
        assert exchange.fault(kind="expire_token")["faults"]["expire_token"] == 1
        with pytest.raises(AuthExpired):
            backfill.gaps_heal()
        broken.refresh_from_db()
        assert (broken.heal_state, broken.heal_attempts) == ("open", 0)
        exchange.fault(kind="clear")
        assert backfill.gaps_heal().healed == 1


def test_a_key_that_the_broker_refuses_concerns_that_instrument_alone(broker: ScriptedServer) -> None:
    instrument(1)
    instrument(2)
    broken = gap(OPEN, OPEN + 2 * MINUTE, instruments=[1, 2])
    broker.will(WRONG_KEY, candles(row(OPEN), row(OPEN + MINUTE)))
    mended = backfill.gaps_heal(now_ms=NOW)
    assert list(mended.refused) == ["NSE_FO|1"]
    broken.refresh_from_db()
    assert broken.heal_state == "healed"
    assert broken.heal_detail.startswith("2 candles filled, 1 instrument; 1 refused: Invalid Instrument key")
    again = gap(OPEN + 5 * MINUTE, OPEN + 6 * MINUTE, instruments=[1])
    assert backfill.gaps_heal(now_ms=NOW).calls == 0, "a refused instrument's day is not asked for again"
    again.refresh_from_db()
    assert again.heal_state == "impossible"
    assert "Invalid Instrument key" in again.heal_detail


def test_an_instrument_that_is_no_more_is_not_asked_for_by_a_key_that_may_mean_another(broker: ScriptedServer) -> None:
    instrument(1, active=False, active_to=moment(OPEN))
    broken = gap(OPEN, OPEN + 2 * MINUTE, instruments=[1])
    backfill.gaps_heal(now_ms=NOW)
    assert broker.requests == []
    broken.refresh_from_db()
    assert (broken.heal_state, broken.heal_detail) == ("impossible", "1 expired: their candles need the broker's Plus plan")


def test_a_closing_auction_leaks_into_no_candle_of_its_shares(broker: ScriptedServer) -> None:
    instrument(1, "NSE_EQ|1", instrument_type="EQ", cas_eligible=True)
    instrument(2, "NSE_EQ|2", instrument_type="EQ")
    instrument(3, "NSE_INDEX|3", instrument_type="INDEX", cas_eligible=True)
    ends = day_ms(DAY) + (15 * 60 + 15) * MINUTE
    for status, since in (("PRE_OPEN_END", OPEN), ("CTS_CLOSE", ends), ("CAS_LM_START", ends + 5 * MINUTE)):
        MarketStatus.objects.create(segment="NSE_EQ:CAS", status=status, since=moment(since))
    gap(ends - 2 * MINUTE, ends + 2 * MINUTE, instruments=[1, 2, 3])
    auction_only = gap(ends + 3 * MINUTE, ends + 4 * MINUTE, instruments=[1])
    rows = [row(ends + number * MINUTE) for number in range(-2, 2)]
    broker.will(*[candles(*rows)] * 3)
    assert backfill.gaps_heal(now_ms=day_ms(DAY) + 16 * 60 * MINUTE).calls == 3
    auction_only.refresh_from_db()
    assert (auction_only.heal_state, auction_only.candles_healed) == ("healed", 0), "there was nothing to ask for"
    assert [len(stored(number)) for number in (1, 2, 3)] == [2, 4, 4]
    assert max(stored(1)) == ends - MINUTE


@pytest.mark.parametrize(
    ("start", "words"),
    [(datetime(2021, 3, 1, 10, tzinfo=IST), "no minutes from before 2022"), (datetime(2026, 11, 20, 10, tzinfo=IST), "nobody knows")],
)
def test_a_gap_that_nothing_can_heal_says_why(broker: ScriptedServer, start: datetime, words: str) -> None:
    broken = gap(round(start.timestamp() * 1000), round(start.timestamp() * 1000) + 300_000)
    assert backfill.gaps_heal(now_ms=NOW).impossible == 1
    broken.refresh_from_db()
    assert words in broken.heal_detail
    assert broker.requests == []


def test_yesterday_s_minutes_that_the_broker_has_not_yet_are_waited_for_until_the_morning(broker: ScriptedServer) -> None:
    instrument(1)
    broken = gap(OPEN, OPEN + 2 * MINUTE, instruments=[1])
    next_day = day_ms(DAY) + 86_400_000
    broker.will(candles(), candles())
    assert backfill.gaps_heal(now_ms=next_day + 3_600_000).waiting == 1
    broken.refresh_from_db()
    assert (broken.heal_state, broken.heal_attempts) == ("open", 1)
    assert broken.heal_detail == "the broker has not yet the bars of 1 of 1 instruments"
    assert backfill.gaps_heal(now_ms=next_day + 3_700_000).calls == 0, "not at each run"
    CandleFetch.objects.update(fetched_at=moment(0))
    assert backfill.gaps_heal(now_ms=next_day + 8 * 3_600_000).impossible == 1
    broken.refresh_from_db()
    assert broken.heal_detail == "the broker has no bars of these days"


@pytest.mark.parametrize("call_seconds", [0.0, 0.2])  # faster than the limits allow, and slower
def test_time_that_ends_half_way_leaves_the_rest_to_the_next_run(broker: ScriptedServer, call_seconds: float) -> None:
    for number in range(1, 31):
        instrument(number)
    broken = gap(OPEN, OPEN + MINUTE, instruments=list(range(1, 31)))
    broker.will(*[candles(row(OPEN))] * 30)
    first = backfill.gaps_heal(now_ms=NOW, seconds=2, progress=lambda *_: time.sleep(call_seconds))
    assert 0 < first.calls < 30
    assert not first.complete
    broken.refresh_from_db()
    assert broken.heal_detail == f"{30 - first.calls} of 30 instruments are still to be asked for"
    second = backfill.gaps_heal(now_ms=NOW)
    assert first.calls + second.calls == 30
    broken.refresh_from_db()
    assert (broken.heal_state, broken.candles_healed, broken.heal_attempts) == ("healed", 30, 2)


def test_indices_come_first(broker: ScriptedServer) -> None:
    instrument(1)
    instrument(9, "NSE_INDEX|Nifty 50")
    gap(OPEN, OPEN + MINUTE, instruments=[1, 9])
    broker.will(candles(row(OPEN)), candles(row(OPEN, volume=0)))
    backfill.gaps_heal(now_ms=NOW)
    assert ["Nifty" in request.path for request in broker.requests] == [True, False]


def test_rows_that_are_odd_and_the_forming_one_are_left_out(broker: ScriptedServer) -> None:
    instrument(1)
    gap(OPEN, OPEN + 6 * MINUTE, instruments=[1])
    zero = row(OPEN + 3 * MINUTE)
    zero[1:5] = [0, 0, 0, 0]
    rows = [row(OPEN), row(OPEN, 99.0), row(OPEN + MINUTE, volume=-2_147_483_648), row(OPEN + 2 * MINUTE), zero, row(OPEN + 4 * MINUTE)]
    broker.will(candles(*rows))
    mended = backfill.gaps_heal(now_ms=OPEN + 7 * MINUTE + 5000)
    assert (mended.odd, mended.candles) == (3, 3)
    assert sorted(stored(1)) == [OPEN, OPEN + 2 * MINUTE, OPEN + 4 * MINUTE]
    forming = gap(OPEN + 8 * MINUTE, OPEN + 9 * MINUTE, instruments=[1])
    broker.will(candles(row(OPEN + 8 * MINUTE), row(OPEN + 9 * MINUTE), row(OPEN + 10 * MINUTE)))
    assert backfill.gaps_heal(now_ms=OPEN + 10 * MINUTE + 5000).candles == 1
    forming.refresh_from_db()
    assert forming.candles_healed == 1


def test_a_clock_of_ours_that_is_fast_does_not_make_forming_minutes_final(broker: ScriptedServer) -> None:
    instrument(1)
    now = time.time_ns() // 1_000_000 // MINUTE * MINUTE
    if day_of(now - 10 * MINUTE) != day_of(now + 60 * MINUTE):
        pytest.skip("two days of India are too near to each other")
    gap(now - 10 * MINUTE, now + 30 * MINUTE, instruments=[1])
    broker.will(candles(*(row(start) for start in range(now - 10 * MINUTE, now + MINUTE, MINUTE))))
    backfill.gaps_heal(now_ms=now + 3_600_000)
    final = round(parsedate_to_datetime(date_of(broker)).timestamp() * 1000) - 60_000
    assert max(stored(1)) + MINUTE <= final


def date_of(broker: ScriptedServer) -> str:
    """The broker's clock now, as its answers carry it."""
    broker.will(Reply())
    return httpx.get(broker.url).headers["Date"]


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_comes_newest_first_a_month_a_call_and_only_once(broker: ScriptedServer) -> None:
    subject = Subject(instrument(1).pk, "NSE_FO|1", "NSE_FO")
    days = [date(2026, 9, 14), date(2026, 9, 30), date(2026, 10, 1), date(2026, 10, 30), date(2026, 11, 2), DAY]
    rows = {day: row(day_ms(day) + 10 * 3_600_000) for day in days}
    broker.will(candles(rows[DAY]), candles(rows[days[4]]), candles(rows[days[2]], rows[days[3]]), candles(rows[days[0]], rows[days[1]]))
    mended = backfill.history_backfill([subject], first=days[0], last=DAY, now_ms=NOW)
    assert [request.path.split("/minutes/1")[1] for request in broker.requests] == [
        "", "/2026-11-19/2026-11-01", "/2026-10-31/2026-10-01", "/2026-09-30/2026-09-14",
    ]  # fmt: skip
    assert (mended.calls, mended.candles) == (4, 6)
    assert {state for _, state in stored(1).values()} == {"backfilled"}
    broker.will(candles(rows[DAY]))
    again = backfill.history_backfill([subject], first=days[0], last=DAY, now_ms=NOW)
    assert (again.calls, again.candles) == (1, 0), "only today is not over"
    broker.will(*[candles()] * 4)
    assert backfill.history_backfill([subject], first=days[0], last=DAY, now_ms=NOW, again=True).calls == 4


def test_what_healing_fetched_is_not_taken_for_the_whole_day(broker: ScriptedServer) -> None:
    subject = Subject(instrument(1).pk, "NSE_FO|1", "NSE_FO")
    gap(OPEN, OPEN + MINUTE, instruments=[1])
    rows = [row(OPEN + number * MINUTE) for number in range(5)]
    broker.will(candles(*rows), candles(*rows))
    later = NOW + 2 * 86_400_000
    backfill.gaps_heal(now_ms=later)
    assert len(stored(1)) == 1
    backfill.history_backfill([subject], first=DAY, last=DAY, now_ms=later)
    assert len(stored(1)) == 5


def test_a_month_of_history_equals_the_exchange_s(exchange: RunningExchange, market: list[Instrument]) -> None:
    chosen = market[0]
    last = day_of(time.time_ns() // 1_000_000) - timedelta(days=1)
    first = last - timedelta(days=9)
    subject = Subject(chosen.pk, chosen.instrument_key, chosen.segment)
    mended = backfill.history_backfill([subject], first=first, last=last)
    bars = bars_of(exchange, chosen.instrument_key, f"{{key}}/minutes/1/{last}/{first}")
    assert mended.candles == len(bars) > 1000
    assert {start: values for start, (values, _) in stored(chosen.pk).items()} == bars
    assert mended.empty >= 2, "a weekend at least"


# --- days -------------------------------------------------------------------------------------------------------------


def days_stored(number: int) -> dict[int, tuple[float, float, float, float, int, str, bool | None]]:
    return {
        store.time_ms(row.start): (row.open, row.high, row.low, row.close, row.volume, row.state, row.final)
        for row in OHLC.objects.filter(instrument=number, interval="1d")
    }


def test_daily_candles_are_confirmed_by_the_broker_s_own_after_five_past_seven(exchange: RunningExchange, market: list[Instrument]) -> None:
    chosen = market[0]
    day, bars = last_trading_day(exchange, chosen.instrument_key)
    give(chosen.pk, dict(list(bars.items())[:30]))
    next_morning = day_ms(day) + 86_400_000 + 7 * 3_600_000
    assert days_stored(chosen.pk)[day_ms(day)][5:] == ("closed", None)
    assert backfill.days_confirm(now_ms=next_morning).calls == 0, "at 07:00 the broker may not have it"
    mended = backfill.days_confirm(now_ms=next_morning + 600_000)
    theirs = bars_of(exchange, chosen.instrument_key, f"{{key}}/days/1/{day}/{day}")
    assert mended.calls == 1
    assert days_stored(chosen.pk)[day_ms(day)] == (*theirs[day_ms(day)], "confirmed", True)
    assert backfill.days_confirm(now_ms=next_morning + 1_200_000).calls == 0
    candles_roll_up_minutes([(chosen.pk, min(bars))])
    assert days_stored(chosen.pk)[day_ms(day)] == (*theirs[day_ms(day)], "confirmed", True), "the roll-up leaves it so"


def test_years_of_days_come_by_decades(broker: ScriptedServer) -> None:
    subject = Subject(instrument(1).pk, "NSE_FO|1", "NSE_FO")
    daily = [row(day_ms(date(2016, 12, 30))), row(day_ms(date(2026, 11, 19)))]
    broker.will(candles(daily[1]), candles(daily[0]))
    mended = backfill.history_backfill([subject], first=date(2010, 1, 1), last=DAY, interval="1d", now_ms=NOW)
    assert [request.path.split("/days/1")[1] for request in broker.requests] == ["/2026-11-19/2017-01-01", "/2016-12-31/2010-01-01"]
    assert mended.candles == 2
    assert sorted(days_stored(1)) == [day_ms(date(2016, 12, 30)), day_ms(date(2026, 11, 19))]


def test_who_has_every_minute_of_a_short_hole_is_not_asked_for(broker: ScriptedServer) -> None:
    bars = {OPEN + number * MINUTE: (100.0, 101.0, 99.0, 100.0, 5) for number in range(4)}
    for number in (1, 2, 3):
        instrument(number)
    give(1, bars)
    give(2, bars, "closed")
    give(3, {start: values for start, values in bars.items() if start != OPEN + 2 * MINUTE})
    reconnect, all_whole = gap(OPEN + MINUTE + 100, OPEN + 2 * MINUTE + 900), gap(OPEN + 20_000, OPEN + 20_700, instruments=[1])
    broker.will(*[candles(*(row(start) for start in bars))] * 2)
    assert backfill.gaps_heal(now_ms=NOW).healed == 2
    assert [unquote(request.path).split("/")[4] for request in broker.requests] == ["NSE_FO|2", "NSE_FO|3"]
    for each, detail in ((reconnect, "3 candles filled, 2 instruments"), (all_whole, "0 candles filled, 0 instruments")):
        each.refresh_from_db()
        assert each.heal_detail == detail


# --- whom a gap concerns ----------------------------------------------------------------------------------------------


def test_a_gap_of_one_feed_concerns_its_own_instruments_alone(broker: ScriptedServer) -> None:
    spots_write({}, NOW, shard=1, shards=2, priced=False, underlyings=())
    for number in (1, 2, 3):
        instrument(number)
        give(number, {OPEN: (100.0, 101.0, 99.0, 100.0, 5)})
    broken = gap(OPEN + 5 * MINUTE, OPEN + 6 * MINUTE, shard=1)
    broker.will(candles(row(OPEN + 5 * MINUTE)), candles(row(OPEN + 5 * MINUTE)))
    assert backfill.gaps_heal(now_ms=NOW).calls == 2
    assert [unquote(request.path).split("/")[4] for request in broker.requests] == ["NSE_FO|1", "NSE_FO|3"]
    broken.refresh_from_db()
    assert broken.heal_detail == "2 candles filled, 2 instruments"


def test_a_gap_of_a_feed_that_has_been_given_up_is_healed_by_who_has_its_place(broker: ScriptedServer) -> None:
    instrument(1)
    give(1, {OPEN: (100.0, 101.0, 99.0, 100.0, 5)})
    broken = gap(OPEN + 5 * MINUTE, OPEN + 6 * MINUTE, shard=1)
    broker.will(candles(row(OPEN + 5 * MINUTE)))
    assert backfill.gaps_heal(now_ms=NOW).healed == 1
    broken.refresh_from_db()
    assert broken.heal_detail == "1 candle filled, 1 instrument"


def test_a_whole_session_that_was_missed_concerns_who_was_there_the_last_time_and_who_is_followed_now(broker: ScriptedServer) -> None:
    for number, key in ((1, "NSE_FO|1"), (2, "NSE_FO|2"), (3, "NSE_FO|3"), (4, "NSE_INDEX|Nifty 50")):
        instrument(number, key)
    SubscriptionRule.objects.create(name="one", what="keys", keys=["NSE_FO|3"], mode="full", priority=1)
    before = OPEN - 86_400_000
    give(1, {before: (100.0, 101.0, 99.0, 100.0, 5)})
    give(4, {before: (100.0, 101.0, 99.0, 100.0, 0)})
    gap(OPEN - MINUTE, OPEN + 375 * MINUTE)
    broker.will(*[candles(row(OPEN, volume=0 if number == 0 else 50)) for number in range(3)])
    later = day_ms(DAY) + 86_400_000 + 8 * 3_600_000
    assert backfill.gaps_heal(now_ms=later).healed == 1
    assert [unquote(request.path).split("/")[3] for request in broker.requests] == ["NSE_INDEX|Nifty 50", "NSE_FO|3", "NSE_FO|1"]


def test_a_night_between_two_days_is_asked_for_once_an_instrument(broker: ScriptedServer) -> None:
    instrument(1)
    sessions_record(
        Hours(exchange, day_ms(day), day_ms(day) + 33_300_000, day_ms(day) + 56_400_000)
        for exchange in ("NSE", "NFO")
        for day in (date(2026, 11, 19), DAY)
    )
    broken = gap(OPEN - 86_400_000 + 360 * MINUTE, OPEN + 10 * MINUTE, instruments=[1])  # from 15:15 until 09:25 of the day after
    first = OPEN - 86_400_000 + 370 * MINUTE
    broker.will(candles(row(OPEN - 10 * MINUTE), row(OPEN + 3 * MINUTE)), candles(row(first), row(first + 60 * MINUTE)))
    backfill.gaps_heal(now_ms=NOW)
    assert [request.path.split("/minutes/1")[1] for request in broker.requests] == ["", "/2026-11-19/2026-11-19"]
    assert sorted(stored(1)) == [first, OPEN + 3 * MINUTE], "a bar before the open and one after the close are no candles"
    broken.refresh_from_db()
    assert (broken.heal_state, broken.candles_healed) == ("healed", 2)
    closed = gap(OPEN - 86_400_000 + 400 * MINUTE, OPEN - 60 * MINUTE, instruments=[1])
    assert backfill.gaps_heal(now_ms=NOW).calls == 0, "nothing traded then"
    closed.refresh_from_db()
    assert (closed.heal_state, closed.candles_healed) == ("healed", 0)


@pytest.mark.realdata
def test_daily_candles_end_as_the_exchange_s_end_of_day_file_has_them(broker: ScriptedServer) -> None:
    with gzip.open(real_data("nse_fo_bhav_NIFTY_2026-03-24.csv.gz"), "rt") as lines:
        traded = [line for line in csv.DictReader(lines) if int(line["TtlTradgVol"]) > 0]
    busiest = sorted(traded, key=lambda line: -int(line["TtlTradgVol"]))[:4]
    unlike = [line for line in traded if line["ClsPric"] != line["LastPric"]][:4]  # the close is an average of the last half hour
    start, expected = day_ms(date(2026, 3, 24)), {}
    for number, line in enumerate([*busiest, *unlike], 1):
        instrument(number, f"NSE_FO|{line['FinInstrmId']}")
        first, high, low, last, close = (float(line[name]) for name in ("OpnPric", "HghPric", "LwPric", "LastPric", "ClsPric"))
        units = int(line["TtlTradgVol"]) * int(line["NewBrdLotQty"])
        give(number, {start + 33_300_000: (first, high, low, last, units)})
        expected[number] = (first, high, low, close, units)
        broker.will(candles([datetime.fromtimestamp(start / 1000, IST).isoformat(), *expected[number], int(line["OpnIntrst"])]))
    assert len(unlike) == 4
    mended = backfill.days_confirm(now_ms=start + 86_400_000 + 8 * 3_600_000)
    assert mended.calls == len(expected)
    for number, values in expected.items():
        assert days_stored(number) == {start: (*values, "confirmed", True)}
    assert {row.instrument for row in OHLC.objects.filter(interval="1d", revision=1)} >= {5, 6, 7, 8}, "another close is a revision"
