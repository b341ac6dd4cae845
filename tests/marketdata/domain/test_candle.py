"""Intervals and folding, against dates worked out by hand and by the standard library's time zones."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.candle import (
    INTERVAL_MINUTES,
    MCX_OPEN_MS,
    STORED_INTERVALS,
    Candle,
    candle_id,
    day_start_ms,
    fold_candles,
    interval_start_ms,
)

IST = ZoneInfo("Asia/Kolkata")


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp() * 1000)


@pytest.mark.parametrize(
    ("time", "interval", "start"),
    [
        ("2026-11-20 09:15:00", "1m", "2026-11-20 09:15:00"),
        ("2026-11-20 09:19:59", "5m", "2026-11-20 09:15:00"),
        ("2026-11-20 10:14:59", "1h", "2026-11-20 09:15:00"),
        ("2026-11-20 10:15:00", "1h", "2026-11-20 10:15:00"),
        ("2026-11-20 15:39:00", "1h", "2026-11-20 15:15:00"),
        ("2026-11-20 15:39:00", "4h", "2026-11-20 13:15:00"),
        ("2026-11-20 15:39:00", "1d", "2026-11-20 00:00:00"),
        ("2026-11-20 09:00:00", "30m", "2026-11-20 08:45:00"),
        ("2026-11-20 00:05:00", "4h", "2026-11-20 00:00:00"),
    ],
)
def test_candles_are_anchored_at_the_open(time: str, interval: str, start: str) -> None:
    assert interval_start_ms(_ms(time), interval) == _ms(start)


def test_mcx_is_anchored_at_nine() -> None:
    assert interval_start_ms(_ms("2026-11-20 23:10:00"), "1h", MCX_OPEN_MS) == _ms("2026-11-20 23:00:00")


@given(st.integers(1_600_000_000_000, 2_000_000_000_000))
def test_a_day_starts_at_midnight_in_india(time_ms: int) -> None:
    there = datetime.fromtimestamp(time_ms / 1000, IST)
    midnight = there.replace(hour=0, minute=0, second=0, microsecond=0)
    assert day_start_ms(time_ms) == round(midnight.timestamp() * 1000)


@given(st.integers(1, 2**33 - 1), st.sampled_from(STORED_INTERVALS), st.integers(26_297_280, 26_297_280 + 2**26 - 1))
def test_an_id_fits_64_bits_and_sorts_by_time(instrument: int, interval: str, minute: int) -> None:
    identifier = candle_id(instrument, interval, minute * 60_000)
    assert 0 < identifier < 2**63
    assert identifier >> 30 == instrument


def _candle(minute: int, price: float, state: str = "confirmed") -> Candle:
    return Candle(1, "1m", _ms("2026-11-20 09:15:00") + minute * 60_000, price, price + 2, price - 1, price + 1, 10, 5.0 + minute, state)


def test_five_minutes_fold_into_one() -> None:
    folded = fold_candles([_candle(minute, 100 + minute) for minute in range(7)], "5m")
    assert folded == [
        Candle(1, "5m", _ms("2026-11-20 09:15:00"), 100, 106, 99, 105, 50, 9.0, "confirmed"),
        Candle(1, "5m", _ms("2026-11-20 09:20:00"), 105, 108, 104, 107, 20, 11.0, "confirmed"),
    ]


def test_a_folded_candle_is_only_as_certain_as_its_least_certain_part() -> None:
    assert fold_candles([_candle(0, 1), _candle(1, 2, "closed"), _candle(2, 3, "backfilled")], "5m")[0].state == "closed"


def test_a_folded_candle_is_revised_as_often_as_its_parts() -> None:
    parts = [_candle(0, 1)._replace(revision=2), _candle(1, 2), _candle(2, 3)._replace(revision=1), _candle(5, 4)]
    assert [folded.revision for folded in fold_candles(parts, "5m")] == [3, 0]


@given(st.lists(st.integers(0, 374), min_size=1, max_size=60, unique=True).map(sorted), st.sampled_from(["5m", "15m", "1h", "1d"]))
def test_folding_keeps_volume_and_extremes(minutes: list[int], interval: str) -> None:
    parts = [_candle(minute, 100 + minute % 13) for minute in minutes]
    folded = fold_candles(parts, interval)
    assert sum(candle.volume for candle in folded) == sum(part.volume for part in parts)
    assert max(candle.high for candle in folded) == max(part.high for part in parts)
    assert folded[-1].close == parts[-1].close
    starts = [candle.start_ms for candle in folded]
    assert starts == sorted(set(starts))
    assert INTERVAL_MINUTES[interval] >= 5
