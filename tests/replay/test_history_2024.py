"""Eight months of real minutes, stored, rolled up and read: every interval equals what polars makes of the file.

The oracle knows nothing of our intervals: it truncates the file's own wall clock, set back by the open where a day is divided.
Volume, open interest, ticks and states are made up, for an index has none; the prices are real.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import polars as pl
import pytest

from instruments.models import Instrument
from marketdata import roll_up, store
from marketdata.calendar import calendar_forget
from marketdata.domain.candle import CERTAINTY, INTERVAL_MINUTES, Candle
from marketdata.selectors import candles_of
from tests.marketdata.api.fixtures import make_instrument
from tests.payloads import real_data

pytestmark = [pytest.mark.realdata, pytest.mark.slow, pytest.mark.django_db]

FILE = "nifty_1m_2024-01_2024-08.csv.gz"
TRUNCATED = {"1d": "1d", "1w": "1w", "1M": "1mo"}
STATES = ("closed", "backfilled", "confirmed")


@pytest.fixture
def nifty(db: None) -> Instrument:
    calendar_forget()
    return make_instrument(26_000, "NSE_INDEX|Nifty 50", instrument_type="INDEX")


@pytest.fixture(scope="module")
def minutes() -> pl.DataFrame:
    """The file, with its wall clock `at`, that as ms UTC `t`, and columns that are made up."""
    table = pl.read_csv(real_data(FILE), schema_overrides={"Date": pl.String, "Time": pl.String})
    at = (pl.col("Date") + " " + pl.col("Time")).str.to_datetime("%Y%m%d %H:%M")
    number = pl.int_range(pl.len())
    return table.select(
        at.alias("at"),
        at.dt.replace_time_zone("Asia/Kolkata").dt.epoch("ms").alias("t"),
        *(pl.col(name.capitalize()).alias(name) for name in ("open", "high", "low", "close")),
        (number * 7919 % 100_000).alias("volume"),
        (number * 31 % 9_999).cast(pl.Float64).alias("open_interest"),
        (number % 3 + 1).alias("certainty"),
        (number % 60).alias("ticks"),
    )


def candle_of(row: dict[str, Any]) -> Candle:
    """The candle of a row of the table."""
    prices = (row["open"], row["high"], row["low"], row["close"])
    return Candle(26_000, "1m", row["t"], *prices, row["volume"], row["open_interest"], STATES[row["certainty"] - 1], 0, row["ticks"])


def expected(minutes: pl.DataFrame, interval: str) -> list[tuple[Any, ...]]:
    """What polars makes of the minutes: start, open, high, low, close, volume, open interest, certainty, ticks."""
    if interval in TRUNCATED:
        start = pl.col("at").dt.truncate(TRUNCATED[interval])
    else:
        start = pl.col("at").dt.offset_by("-9h15m").dt.truncate(interval).dt.offset_by("9h15m")
    grouped = minutes.sort("at").group_by(start.alias("start"), maintain_order=True)
    folded = grouped.agg(
        pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close"), pl.sum("volume"), pl.last("open_interest"),
        pl.min("certainty"), pl.sum("ticks"),
    )  # fmt: skip
    return folded.with_columns(pl.col("start").dt.replace_time_zone("Asia/Kolkata").dt.epoch("ms")).rows()


def read(interval: str, *, newest_first: bool = False, page: int = 100_000) -> list[Candle]:
    """All candles, read in pages; only minutes are read in small ones."""
    found: list[Candle] = []
    low, high = 0, 1 << 42
    while True:
        got = candles_of(
            26_000, interval, from_ms=low, to_ms=high, limit=page, newest_first=newest_first, segment="NSE_INDEX", market_ms=1 << 42
        )
        found += got
        if len(got) < page:
            return found[::-1] if newest_first else found
        low, high = (low, got[-1].start_ms) if newest_first else (got[-1].start_ms + 1, high)


def figures(candles: list[Candle], interval: str) -> list[tuple[Any, ...]]:
    """Candles as the oracle tells them. A day is at most "closed" until the broker confirms it, and so is what is made of days."""
    assert {(candle.instrument, candle.interval) for candle in candles} == {(26_000, interval)}
    return [(*candle[2:9], CERTAINTY[candle.state], candle.ticks) for candle in candles]


def assert_equal(minutes: pl.DataFrame, intervals: Iterable[str] = INTERVAL_MINUTES, **how: Any) -> None:
    for interval in intervals:
        told = expected(minutes, interval)
        if interval in TRUNCATED:
            told = [(*row[:7], min(row[7], CERTAINTY["closed"]), row[8]) for row in told]
        assert figures(read(interval, **how), interval) == told, interval


def test_every_interval_equals_what_polars_makes(nifty: Instrument, minutes: pl.DataFrame) -> None:
    candles = [candle_of(row) for row in minutes.iter_rows(named=True)]
    assert store.candles_write(candles) == len(candles) == 58_127
    assert_equal(minutes, ("3m", "30m", "1d", "1w"))  # nothing is rolled up yet
    done = roll_up.candles_roll_up(seconds=600)
    assert (done.changed, done.complete) == (58_127, True)
    assert done.written == sum(len(expected(minutes, interval)) for interval in roll_up.COARSE)
    assert roll_up.candles_roll_up(seconds=600).written == 0
    assert_equal(minutes)
    assert_equal(minutes, ("1m", "10m", "1h", "1M"), newest_first=True, page=4_777)


def test_holes_corrections_outages_and_half_done_work_leave_no_trace(
    nifty: Instrument, minutes: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(2024)
    some = minutes.filter(pl.col("at") < pl.datetime(2024, 3, 9))
    candles = [candle_of(row)._replace(state="confirmed") for row in some.iter_rows(named=True)]
    some = some.with_columns(certainty=pl.lit(CERTAINTY["confirmed"]))
    late = set(generator.sample(range(len(candles)), 900))
    wrong = set(generator.sample(sorted(set(range(len(candles))) - late), 900))
    first = [
        candle._replace(state="closed", high=candle.high + 1, volume=1) if number in wrong else candle
        for number, candle in enumerate(candles)
        if number not in late
    ]
    monkeypatch.setattr(roll_up, "CHUNK_MINUTES", 2_000)
    for start in range(0, len(first), 1_500):
        store.candles_write(first[start : start + 1_500])
        if start % 4_500 == 0:
            roll_up.candles_roll_up()
    generator.shuffle(candles)
    for start in range(0, len(candles), 1_500):
        store.candles_write(candles[start : start + 1_500])  # what was late, and what was wrong
    store.candles_collection().update_many({"n": "1m"}, [{"$set": {"u": {"$subtract": ["$u", 3_600_000]}}}])  # the worker was away
    store.collection(roll_up.WATERMARKS).update_one({}, [{"$set": {"u": {"$subtract": ["$u", 3_600_000]}}}])
    runs = 1
    while not roll_up.candles_roll_up(seconds=0.0).complete:
        runs += 1
    assert runs > 2
    assert_equal(some)
    raised = {interval: sum(row.revision for row in read(interval)) for interval in roll_up.COARSE}
    assert all(raised.values()), raised
    before = list(store.candles_collection().find().sort("_id"))
    roll_up.candles_roll_up_minutes((candle.instrument, candle.start_ms) for candle in candles)
    assert list(store.candles_collection().find().sort("_id")) == before
