"""Candles: their intervals, ids and folding. Pure.

A candle's id is made of what it is, so that writing it again replaces it and one instrument's candles of one interval
lie side by side in the primary index, in order of time:

    bits 63..30  instrument id      bits 29..26  interval code      bits 25..0  start, minutes since 2020-01-01
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MINUTE_MS = 60_000
EPOCH_2020_MIN = 26_297_280
"""Minutes from 1970-01-01 to 2020-01-01, UTC."""
IST_OFFSET_MS = 19_800_000
"""Indian standard time is UTC+5:30 all year."""
SESSION_OPEN_MS = (9 * 60 + 15) * MINUTE_MS
"""Offset of the session's anchor in the IST day: 09:15 at NSE and BSE. MCX is 09:00."""
MCX_OPEN_MS = 9 * 60 * MINUTE_MS

INTERVAL_MINUTES = {"1m": 1, "3m": 3, "5m": 5, "10m": 10, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "1d": 1440}
"""Interval → minutes."""
STORED_INTERVALS = ("1m", "5m", "15m", "1h", "1d")
"""Those that MongoDB holds; the others are folded when read."""
INTERVAL_CODE = {"1m": 0, "5m": 1, "15m": 2, "1h": 3, "1d": 4}


class Candle(NamedTuple):
    """One candle.

    Attributes:
        instrument: our instrument id.
        interval: "1m", "5m", …
        start_ms: first millisecond, UTC; for "1d" 00:00 IST.
        open, high, low, close: INR.
        volume: units; 0 for indices.
        open_interest: units at the end; None where unknown.
        state: "live", "closed", "confirmed" or "backfilled".
        revision: 0 at first; one more each time the values changed.
    """

    instrument: int
    interval: str
    start_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    open_interest: float | None
    state: str
    revision: int = 0


def candle_id(instrument: int, interval: str, start_ms: int) -> int:
    """Return the int64 id of a stored candle.

    Raises:
        KeyError: `interval` is not one of STORED_INTERVALS.
    """
    return instrument << 30 | INTERVAL_CODE[interval] << 26 | start_ms // MINUTE_MS - EPOCH_2020_MIN


def day_start_ms(time_ms: int) -> int:
    """Return 00:00 IST of the day that `time_ms` lies in, as ms UTC."""
    return (time_ms + IST_OFFSET_MS) // 86_400_000 * 86_400_000 - IST_OFFSET_MS


def interval_start_ms(time_ms: int, interval: str, anchor_ms: int = SESSION_OPEN_MS) -> int:
    """Return the start of the candle that `time_ms` falls into.

    Args:
        time_ms: ms UTC.
        interval: one of INTERVAL_MINUTES.
        anchor_ms: the session's open as an offset in the IST day; candles are counted from it, before it too.
    """
    day = day_start_ms(time_ms)
    if interval == "1d":
        return day
    length = INTERVAL_MINUTES[interval] * MINUTE_MS
    anchor = day + anchor_ms
    return max(anchor + (time_ms - anchor) // length * length, day)


def fold_candles(candles: Iterable[Candle], interval: str, anchor_ms: int = SESSION_OPEN_MS) -> list[Candle]:
    """Fold finer candles of one instrument, oldest first, into `interval`.

    Returns:
        Coarser candles, oldest first. One is "confirmed" only when all its parts are, else it has the state of the
        least certain part ("live" < "closed" < "backfilled" < "confirmed").
    """
    certainty = ("live", "closed", "backfilled", "confirmed")
    folded: list[Candle] = []
    for part in candles:
        start = interval_start_ms(part.start_ms, interval, anchor_ms)
        if folded and folded[-1].start_ms == start:
            last = folded[-1]
            folded[-1] = last._replace(
                high=max(last.high, part.high),
                low=min(last.low, part.low),
                close=part.close,
                volume=last.volume + part.volume,
                open_interest=part.open_interest,
                state=min(last.state, part.state, key=certainty.index),
            )
        else:
            folded.append(part._replace(interval=interval, start_ms=start, revision=0))
    return folded
