"""Candles: written, rolled up inside the database, read over REST. `python -m tests.bench candles`.

The database's share is most of it; both the wall clock and the CPU time of mongod and of this process are told.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx
from bson.datetime_ms import DatetimeMS

from accounts.services import api_key_create, owner_user
from marketdata import roll_up, store
from marketdata.calendar import sessions_record
from marketdata.domain.candle import DAY_MS, MINUTE_MS, SESSION_OPEN_MS, Candle, candle_id, day_start_ms
from marketdata.domain.session import Hours
from tests.bench.table import Row
from tests.fakes.exchange import ROOT
from tests.fakes.web import web_process
from tests.marketdata.api.fixtures import make_instrument

INSTRUMENTS = 1000
MINUTES = 385
"""A day of derivatives since August 2026: 09:15 to 15:40."""
WRITTEN = 2000
YEAR_DAYS = 250
DAY_MINUTES = 375
PAGE = 10_000
MONDAY = day_start_ms(1_789_972_200_000)
"""21 September 2026: a day to come is not among the newest candles."""
READ = 1
"""The instrument whose year is read."""


def run() -> list[Row]:
    """Measure all three."""
    return [*_writing(), *_rolling_up(), *_reading()]


def _minutes(instrument: int, day_ms: int, count: int, generator: Random) -> Iterator[Candle]:
    """A day's minutes of an instrument, a random walk in paise."""
    price = generator.randrange(2_000, 60_000)
    for at in range(count):
        four = [price + generator.randrange(-40, 41) for _ in range(4)]
        prices = (four[0] / 20, max(four) / 20, min(four) / 20, four[3] / 20)
        price = max(four[3], 100)
        start = day_ms + SESSION_OPEN_MS + at * MINUTE_MS
        yield Candle(instrument, "1m", start, *prices, generator.randrange(100_000), 5e6, "confirmed", 0, generator.randrange(1, 60))


def _store(candles: Iterator[Candle], stamp: datetime) -> int:
    """Insert candles as they would be there; `candles_write` is measured by itself."""
    documents = [
        {
            "_id": candle_id(row.instrument, "1m", row.start_ms), "i": row.instrument, "n": "1m", "t": DatetimeMS(row.start_ms),
            "o": row.open, "h": row.high, "l": row.low, "c": row.close, "v": row.volume, "oi": row.open_interest,
            "s": row.state, "rev": 0, "tk": row.ticks, "u": stamp,
        }
        for row in candles
    ]  # fmt: skip
    store.candles_collection().insert_many(documents, ordered=False)
    return len(documents)


# --- writing ----------------------------------------------------------------------------------------------------------


def _writing() -> list[Row]:
    start = MONDAY + SESSION_OPEN_MS
    closed = [Candle(number, "1m", start, 100, 102, 99, 101, 10, None, "closed", 0, 5) for number in range(10_000, 10_000 + WRITTEN)]
    confirmed = [row._replace(state="confirmed", close=101.5) for row in closed]
    rows = []
    for name, candles, changed in (("new", closed, WRITTEN), ("confirmed with other values", confirmed, WRITTEN), ("again", confirmed, 0)):
        began = time.perf_counter()
        if store.candles_write(candles) != changed:
            raise RuntimeError(f"{name}: not {changed} candles were changed")
        rows.append(Row(f"{WRITTEN:,} candles written: {name}", (time.perf_counter() - began) * 1000, "ms", 300, lower_is_better=True))
    store.candles_collection().delete_many({})
    return rows


# --- rolling up -------------------------------------------------------------------------------------------------------


def _rolling_up() -> list[Row]:
    generator = Random(1)
    opens = MONDAY + SESSION_OPEN_MS
    sessions_record([Hours("NFO", MONDAY, opens, opens + MINUTES * MINUTE_MS)])
    earlier = datetime.now(UTC) - timedelta(hours=1)
    for number in range(1, INSTRUMENTS + 1):
        make_instrument(number, f"NSE_FO|{number}")
        _store(_minutes(number, MONDAY, MINUTES, generator), earlier)
    whole = _cost(lambda: roll_up.candles_roll_up(seconds=600).written)
    store.candles_collection().update_many(
        {"n": "1m", "t": DatetimeMS(opens + 200 * MINUTE_MS)}, {"$set": {"u": datetime.now(UTC), "h": 1e6}}
    )
    minute = _cost(lambda: roll_up.candles_roll_up(seconds=600).written)
    expected = (INSTRUMENTS * (77 + 26 + 7 + 1), INSTRUMENTS * 4)
    if (whole[0], minute[0]) != expected:
        raise RuntimeError(f"{whole[0]} and {minute[0]} coarser candles were written instead of {expected}")
    return [
        Row(
            f"a day of {INSTRUMENTS:,} instruments rolled up: {INSTRUMENTS * MINUTES:,} minutes",
            whole[1],
            "s",
            20,
            10,
            lower_is_better=True,
        ),
        Row("    its CPU time, mongod", whole[2], "s"),
        Row("    its CPU time, this process", whole[3], "s"),
        Row(f"the same day after one changed minute of each: {minute[0]:,} candles", minute[1], "s", 5, 2, lower_is_better=True),
    ]


def _cost(work: Callable[[], int]) -> tuple[int, float, float, float]:
    """Return what it gave, and seconds: of the clock, of mongod's CPU, of this process's."""
    began, mongod, ours = time.perf_counter(), _mongod_seconds(), time.process_time()
    result = work()
    return result, time.perf_counter() - began, _mongod_seconds() - mongod, time.process_time() - ours


def _mongod_seconds() -> float:
    used: dict[str, Any] = store.candles_collection().database.command("serverStatus")["extra_info"]
    return float(used["user_time_us"] + used["system_time_us"]) / 1e6


# --- reading ----------------------------------------------------------------------------------------------------------


def _reading() -> list[Row]:
    generator = Random(2)
    days = [MONDAY - (week * 7 - day) * DAY_MS for week in range(1, YEAR_DAYS // 5 + 1) for day in range(5)]
    opens = [day + SESSION_OPEN_MS for day in days]
    sessions_record([Hours("NFO", day, start, start + DAY_MINUTES * MINUTE_MS) for day, start in zip(days, opens, strict=True)])
    there = MINUTES + sum(_store(_minutes(READ, day, DAY_MINUTES, generator), datetime.now(UTC)) for day in days)
    roll_up.candles_roll_up(seconds=600)
    headers = {"Authorization": f"Bearer {api_key_create(user=owner_user(), name='bench')}"}
    rows = []
    with web_process(TRADINGOK_API_RATE="100000", TRADINGOK_API_BURST="1000000") as port:
        for interval, bound in (("1m", 300.0), ("3m", None), ("5m", None)):
            first = f"http://127.0.0.1:{port}/api/marketdata/ohlc/?instrument=id:{READ}&interval={interval}&limit={PAGE}"
            _pages(first, headers)
            times, read = _pages(first, headers)
            if interval == "1m" and read != there:
                raise RuntimeError(f"{read} candles were read of {there}")
            name = f"a year of {interval}, {read:,} candles in {len(times)} pages of {PAGE:,}: a page"
            rows.append(Row(name, median(times), "ms", bound, None if bound is None else bound / 2, lower_is_better=True))
            rows.append(Row("    the slowest of them", max(times), "ms", bound, lower_is_better=True))
    return rows


def _pages(address: str | None, headers: dict[str, str]) -> tuple[list[float], int]:
    """Return the milliseconds of each page, and how many candles they hold together."""
    times, read = [], 0
    with httpx.Client(headers=headers, timeout=60) as client:
        while address:
            began = time.perf_counter()
            answer = client.get(address).raise_for_status()
            times.append((time.perf_counter() - began) * 1000)
            body = answer.json()
            read += len(body["results"])
            address = body["next"]
    return times, read


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "tests.bench", "candles"], cwd=Path(ROOT)))
