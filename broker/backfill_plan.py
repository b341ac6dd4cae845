"""What of the past is to be asked of the broker, and what of its answer is to be written. Pure; Indian time by arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from broker.upstox.protocol import Bar
from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, MINUTE_MS, Candle, day_start_ms

SETTLE_MS = 60_000
"""A minute that ended so long ago is taken as final at the broker: its bar appears 6–36 s after the end · FACTS §5."""
MISSING_AFTER_MS = 300_000
"""Our own candle of a minute that ended later may still be on its way through the journal to the store."""
FIRST_MINUTES = date(2022, 1, 1)
FIRST_DAYS = date(2000, 1, 1)
"""The broker has no minutes, and no days, from before · FACTS §5."""
YEARS_PER_CALL = 9
"""Days come a decade a call · FACTS §5."""
MORNING_MS = (7 * 60 + 5) * MINUTE_MS
"""Offset in the IST day at which the day before is complete at the broker's historical endpoint: 06:51–07:01 was seen · FACTS §5."""
EPOCH = date(1970, 1, 1)
Stretch = tuple[int, int]
"""[from, to), ms UTC."""


class Subject(NamedTuple):
    """An instrument as the broker is asked for it.

    Attributes:
        instrument: our id.
        key: the broker's.
        segment: "NSE_FO", …
        followed: by the rules, now.
        auctioned: it takes part in the closing auction, so that its trading ends before its segment's; an index goes on through it.
    """

    instrument: int
    key: str
    segment: str
    followed: bool = True
    auctioned: bool = False

    @property
    def is_index(self) -> bool:
        """Whether it has neither volume nor open interest."""
        return self.segment.endswith("_INDEX")


class Moved(NamedTuple):
    """A change of what a feed follows.

    Attributes:
        at_ms: market time · ms UTC.
        is_start: the feed began: `entered` is all that it follows.
        entered, left: the broker's keys. One that passed to another contract is in both.
    """

    at_ms: int
    is_start: bool
    entered: Collection[str]
    left: Collection[str]


class Sorted(NamedTuple):
    """What of an answer is to be written.

    Attributes:
        candles: 1-minute candles, oldest first.
        missing: stretches among them in which the broker has bars and we had nothing, though we followed it and no gap was known.
        bars: rows of the asked day or days that were usable.
        odd: rows that were not: repeated, without a price, off the minute.
    """

    candles: list[Candle]
    missing: list[Stretch]
    bars: int
    odd: int


def day_of(time_ms: int) -> date:
    """Return the date in India."""
    return EPOCH + timedelta(days=(time_ms + IST_OFFSET_MS) // DAY_MS)


def day_ms(day: date) -> int:
    """Return 00:00 IST of a date, ms UTC."""
    return (day - EPOCH).days * DAY_MS - IST_OFFSET_MS


def minutes_around(start_ms: int, end_ms: int) -> Stretch:
    """Return the whole minutes that a hole touches: its start floored, its end ceiled."""
    return start_ms // MINUTE_MS * MINUTE_MS, -(-end_ms // MINUTE_MS) * MINUTE_MS


def days_within(stretch: Stretch) -> list[date]:
    """Return the days in India that a stretch touches, newest first."""
    first, last = day_of(stretch[0]), day_of(stretch[1] - 1)
    return [last - timedelta(days=back) for back in range((last - first).days + 1)]


def joined(minutes: Iterable[int]) -> list[Stretch]:
    """Join minutes (starts, ascending) that follow on each other."""
    found: list[Stretch] = []
    for minute in minutes:
        if found and found[-1][1] == minute:
            found[-1] = (found[-1][0], minute + MINUTE_MS)
        else:
            found.append((minute, minute + MINUTE_MS))
    return found


def followed_stretches(changes: Iterable[Moved], within: Stretch) -> dict[str, list[Stretch]]:
    """Say when each key was followed.

    Args:
        changes: of one feed, oldest first, from one of its starts on: what is not told, was not followed.
        within: nothing is said of what lies outside.
    """
    since: dict[str, int] = {}
    found: dict[str, list[Stretch]] = {}
    for change in (*changes, Moved(within[1], True, (), ())):
        gone = [*change.left, *(since.keys() - set(change.entered) if change.is_start else ())]
        for key in gone:
            stretch = (max(since.pop(key, change.at_ms), within[0]), min(change.at_ms, within[1]))
            if stretch[0] < stretch[1]:
                found.setdefault(key, []).append(stretch)
        for key in change.entered:
            since.setdefault(key, change.at_ms)
    return found


def month_spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """Cut days into what one call for minutes may reach: (first, last) of days that follow on each other in one month, newest first."""
    spans: list[tuple[date, date]] = []
    for day in sorted(set(days), reverse=True):
        if spans and spans[-1][0] - day == timedelta(days=1) and spans[-1][0].month == day.month:
            spans[-1] = (day, spans[-1][1])
        else:
            spans.append((day, day))
    return spans


def decade_spans(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Cut a stretch of days into what one call for daily bars may reach: (first, last), newest first."""
    while last >= first:
        begin = max(first, date(last.year - YEARS_PER_CALL, 1, 1))
        yield begin, last
        last = begin - timedelta(days=1)


def usable(bars: Sequence[Bar], days: Collection[date], *, length_ms: int = MINUTE_MS) -> tuple[list[Bar], int]:
    """Return the bars of these days, each once, oldest first, and how many rows were odd: repeated, without a price, off the minute.

    Rows of other days are neither: before the open, the broker may answer "today" with yesterday.
    """
    kept: list[Bar] = []
    odd = 0
    for bar in sorted(bars):
        if day_of(bar.start_ms) not in days:
            continue
        priced = 0 < bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high
        repeated = bool(kept) and kept[-1].start_ms == bar.start_ms
        if priced and not repeated and (bar.start_ms + IST_OFFSET_MS) % length_ms == 0:
            kept.append(bar)
        else:
            odd += 1
    return kept, odd


def sort_out(
    subject: Subject,
    bars: Sequence[Bar],
    days: Collection[date],
    *,
    states: Mapping[int, str],
    holes: Collection[Stretch],
    now_ms: int,
    trades: Callable[[int], bool],
    followed: Callable[[int], bool],
    whole: bool = False,
) -> Sorted:
    """Say which of the broker's bars are to be written, and as what.

    A minute in a hole is "backfilled" whatever the feed had of it. A minute that the feed has from ticks alone is "confirmed". One that
    it has not at all, though the instrument was followed, is "backfilled" and missing: if something was traded in it (an index has no
    volume). While it was not followed nothing is missing, but between others of the same day that we have it is "backfilled" all the same.
    What is confirmed or back-filled already is left alone, and so is what lies outside of trading hours or is not final.

    Args:
        bars: of the answer.
        days: that were asked for.
        states: start → state of the 1-minute candles that are stored of those days.
        holes: whole minutes of the open gaps that concern the instrument.
        now_ms: market time, a lower bound.
        trades: whether the minute that begins at so many ms UTC belongs to continuous trading.
        followed: whether the feed followed the instrument throughout that minute, and is known to have been at work.
        whole: write every minute: history is wanted, not only what a hole has left.
    """
    kept, odd = usable(bars, days)
    own: dict[int, Stretch] = {}
    for start in states:
        first, last = own.get(day_start_ms(start), (start, start))
        own[day_start_ms(start)] = (min(first, start), max(last, start))
    candles: list[Candle] = []
    missing: list[int] = []
    for bar in kept:
        state = states.get(bar.start_ms)
        if state in ("confirmed", "backfilled") or bar.start_ms + MINUTE_MS > now_ms - SETTLE_MS or not trades(bar.start_ms):
            continue
        in_hole = any(start <= bar.start_ms < end for start, end in holes)
        first, last = own.get(day_start_ms(bar.start_ms), (0, 0))
        is_lacking = (
            state is None and not in_hole and bar.start_ms + MINUTE_MS <= now_ms - MISSING_AFTER_MS and (subject.is_index or bar.volume > 0)
        )
        is_missing = is_lacking and followed(bar.start_ms)
        if is_missing:
            missing.append(bar.start_ms)
        if state is not None and not in_hole:
            candles.append(candle_of(subject, bar, "1m", "confirmed"))
        elif in_hole or is_missing or (is_lacking and first < bar.start_ms < last) or whole:
            candles.append(candle_of(subject, bar, "1m", "backfilled"))
    return Sorted(candles, joined(missing), len(kept), odd)


def candle_of(subject: Subject, bar: Bar, interval: str, state: str) -> Candle:
    """Return a broker's bar as a candle of ours; only derivatives have open interest."""
    interest = bar.open_interest if not subject.segment.endswith(("_INDEX", "_EQ")) else None
    volume = 0 if subject.is_index else bar.volume
    return Candle(subject.instrument, interval, bar.start_ms, bar.open, bar.high, bar.low, bar.close, volume, interest, state)
