"""Healing, confirming and history against the simulated exchange, and against a broker that answers as it rarely does.

What the exchange has is read by the tests' own requests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from broker import backfill
from broker.backfill import Mended
from broker.backfill_plan import day_ms, day_of
from broker.models import CandleFetch
from broker.tasks import refresh_instruments
from instruments.models import Instrument
from marketdata import bus, store
from marketdata.domain.candle import Candle, candle_id
from marketdata.models import OHLC, Gap
from marketdata.roll_up import candles_roll_up_minutes
from tests.broker.scripted_http import ScriptedServer, scripted_server
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401 - a fixture

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


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def at(url: str) -> override_settings:
    return override_settings(
        EXCHANGE_URL=url, UPSTOX_API_URL=url, INSTRUMENT_MASTER_URL=f"{url}/market-quote/instruments/exchange/NSE.json.gz"
    )


@pytest.fixture
def market(exchange: RunningExchange) -> Iterator[list[Instrument]]:
    """The exchange's instruments, in our store; the first is an index."""
    with at(exchange.url):
        refresh_instruments()
        yield sorted(Instrument.objects.all(), key=lambda row: (row.segment != "NSE_INDEX", row.pk))


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
        import asyncio

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
    give(subject.pk, {start: bars[start] for start in (*starts[:40], *starts[42:])})
    store.candles_write([Candle(subject.pk, "1m", starts[200], 1.0, 1.0, 1.0, 1.0, 0, None, "closed")])
    now = day_ms(day) + 86_400_000 + 8 * 3_600_000  # 08:00 of the day after
    assert backfill.candles_mend(seconds=60, now_ms=now - 7_200_000).calls == 0, "at 06:00 the broker does not have all of it yet"
    mended = backfill.candles_mend(seconds=60, now_ms=now)
    assert (mended.calls, mended.missing) == (1, 2)
    assert {start: values for start, (values, _) in stored(subject.pk).items()} == bars
    assert backfill.candles_mend(seconds=60, now_ms=now).calls == 0
