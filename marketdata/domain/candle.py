"""Candles: their intervals, ids and folding. Pure; Indian time by arithmetic, whatever the host's zone.

A candle's id is made of what it is, so that writing it again replaces it and one instrument's candles of one interval
lie side by side in the primary index, in order of time:

    bits 63..30  instrument id      bits 29..26  interval code      bits 25..0  start, minutes since 2020-01-01
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

MINUTE_MS = 60_000
EPOCH_2020_MIN = 26_297_280
"""Minutes from 1970-01-01 to 2020-01-01, UTC."""
IST_OFFSET_MS = 19_800_000
"""Indian standard time is UTC+5:30 all year."""
DAY_MS = 86_400_000
SESSION_OPEN_MS = (9 * 60 + 15) * MINUTE_MS
"""Offset of the usual open in the IST day, from which intervals are counted: 09:15 at NSE and BSE. Commodities and currencies: 09:00."""
MCX_OPEN_MS = 9 * 60 * MINUTE_MS

INTERVAL_MINUTES = {
    "1m": 1,
    "3m": 3,
    "5m": 5,
    "10m": 10,
    "15m": 15,
    "30m": 30,
    "1h": 60,
    "2h": 120,
    "4h": 240,
    "1d": 1440,
    "1w": 7 * 1440,
    "1M": 31 * 1440,
}
"""Interval → minutes at the most: a week begins on Monday, a month on its first day, 00:00 IST."""
STORED_INTERVALS = ("1m", "5m", "15m", "1h", "1d")
"""Those that MongoDB holds; the others are folded when read."""
INTERVAL_CODE = {"1m": 0, "5m": 1, "15m": 2, "1h": 3, "1d": 4}


class Anchors(NamedTuple):
    """From where in the IST day the intervals of a segment are counted.

    Attributes:
        usual_ms: the segment's usual open, as an offset in the day.
        special: 00:00 IST of a day → its own offset, for days whose session does not hold the usual open (Muhurat at 18:00).
    """

    usual_ms: int = SESSION_OPEN_MS
    special: Mapping[int, int] = {}

    def of(self, day_ms: int) -> int:
        """Return the offset of the day that begins at `day_ms` (00:00 IST, ms UTC)."""
        return self.special.get(day_ms, self.usual_ms)


NSE_ANCHORS = Anchors()


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
        revision: 0 at first; one more each time the values of a finished candle changed.
        ticks: different trades that the feed has shown of it (the feed is conflated: there were more); None where it is not from ticks.
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
    ticks: int | None = None


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
        anchor_ms: the open of that day as an offset in the IST day; candles are counted from it, before it too.
    """
    day = day_start_ms(time_ms)
    if interval == "1d":
        return day
    if interval == "1w":
        return day - ((day + IST_OFFSET_MS) // DAY_MS + 3) % 7 * DAY_MS  # 1970-01-01 was a Thursday
    if interval == "1M":
        return day - (_ist(day).day - 1) * DAY_MS
    length = INTERVAL_MINUTES[interval] * MINUTE_MS
    anchor = day + anchor_ms
    return max(anchor + (time_ms - anchor) // length * length, day)


def interval_end_ms(start_ms: int, interval: str, anchor_ms: int = SESSION_OPEN_MS) -> int:
    """Return the first millisecond after the candle that begins at `start_ms` (as `interval_start_ms` gives it)."""
    day = day_start_ms(start_ms)
    if interval == "1w":
        return start_ms + 7 * DAY_MS
    if interval == "1M":
        return interval_start_ms(start_ms + 31 * DAY_MS, "1M")
    length = INTERVAL_MINUTES[interval] * MINUTE_MS
    anchor = day + anchor_ms
    return min(anchor + ((start_ms - anchor) // length + 1) * length, day + DAY_MS) if interval != "1d" else day + DAY_MS


def _ist(time_ms: int) -> datetime:
    """Return the wall clock of India as a datetime that calls itself UTC."""
    return datetime.fromtimestamp((time_ms + IST_OFFSET_MS) / 1000, UTC)


CERTAINTY = {"live": 0, "closed": 1, "backfilled": 2, "confirmed": 3}
"""State → how certain it is: a less certain candle never replaces a more certain one."""


def fold_candles(candles: Iterable[Candle], interval: str, anchors: Anchors = NSE_ANCHORS) -> list[Candle]:
    """Fold finer candles of one instrument, oldest first, into `interval`.

    Returns:
        Coarser candles, oldest first. One is "confirmed" only when all its parts are, else it has the state of the
        least certain part (CERTAINTY). Its revision is the sum of theirs: it rises with each.
    """
    folded: list[Candle] = []
    parts: list[Candle] = []
    start = end = 0
    for part in candles:
        if not start <= part.start_ms < end:
            if parts:
                folded.append(_fold(parts, interval, start))
            anchor_ms = anchors.of(day_start_ms(part.start_ms))
            start = interval_start_ms(part.start_ms, interval, anchor_ms)
            end = interval_end_ms(start, interval, anchor_ms)
            parts = []
        parts.append(part)
    if parts:
        folded.append(_fold(parts, interval, start))
    return folded


def _fold(parts: list[Candle], interval: str, start_ms: int) -> Candle:
    """Return the candle of all its parts, oldest first."""
    first, last = parts[0], parts[-1]
    ticks = [part.ticks for part in parts if part.ticks is not None]
    return Candle(
        first.instrument,
        interval,
        start_ms,
        first.open,
        max([part.high for part in parts]),
        min([part.low for part in parts]),
        last.close,
        sum([part.volume for part in parts]),
        last.open_interest,
        min([part.state for part in parts], key=CERTAINTY.__getitem__),
        sum([part.revision for part in parts]),
        sum(ticks) if len(ticks) == len(parts) else None,
    )
