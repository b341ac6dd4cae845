"""What a chart shows of candles: only sessions, each minute's best version, what still forms, and silent minutes when asked for. Pure.

Every function takes the candles of one instrument and interval, oldest first, and gives them so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from marketdata.domain.candle import (
    CERTAINTY,
    DAY_MS,
    INTERVAL_MINUTES,
    MINUTE_MS,
    Anchors,
    Candle,
    day_start_ms,
    interval_end_ms,
    interval_start_ms,
)
from marketdata.domain.session import Calendar, Hours

FILLED = "filled"
"""State of a candle that stands for a silence: nobody traded, or nothing is known of it."""


def bucket_start_ms(time_ms: int, interval: str, anchors: Anchors) -> int:
    """Return the start of the candle that `time_ms` falls into."""
    return interval_start_ms(time_ms, interval, anchors.of(day_start_ms(time_ms)))


def bucket_end_ms(start_ms: int, interval: str, anchors: Anchors) -> int:
    """Return the first millisecond after the candle that begins at `start_ms`."""
    return interval_end_ms(start_ms, interval, anchors.of(day_start_ms(start_ms)))


def in_session(candles: Iterable[Candle], segment: str, calendar: Calendar) -> Iterator[Candle]:
    """Give the candles that touch a session of the segment, where the calendar knows the day; else all."""
    known: dict[int, tuple[int, int]] = {}
    for candle in candles:
        day = day_start_ms(candle.start_ms)
        if day not in known:
            hours = calendar.hours(segment, day)
            known[day] = (day, day + DAY_MS) if hours is None else (hours.open_ms, hours.close_ms)
        opens, closes = known[day]
        if candle.start_ms < closes and candle.start_ms + INTERVAL_MINUTES[candle.interval] * MINUTE_MS > opens:
            yield candle


def best_of(candles: Iterable[Candle]) -> list[Candle]:
    """Return one candle of each start: the most certain one, among these that of the highest revision, among these the last."""
    best: dict[int, Candle] = {}
    for candle in candles:
        other = best.get(candle.start_ms)
        if other is None or (CERTAINTY[candle.state], candle.revision) >= (CERTAINTY[other.state], other.revision):
            best[candle.start_ms] = candle
    return [best[start] for start in sorted(best)]


def with_newer(stored: Iterable[Candle], newer: Iterable[Candle]) -> list[Candle]:
    """Return stored candles, oldest first, with those that are known from elsewhere: minutes that compete, or folds of newer minutes.

    A fold takes the place of what the roll-up has stored, and its revision, but not that of a day that the broker has confirmed.
    The roll-up alone numbers what it stores: what it has not seen yet has revision 0, whatever was revised while it formed.
    A minute told by its bar alone (the first ones behind a restart of the feed) keeps the ticks that the store has counted.
    """
    known = {candle.start_ms: candle for candle in stored}
    for candle in newer:
        old = known.get(candle.start_ms)
        revision = 0 if old is None else old.revision
        if candle.interval == "1m":
            best = candle if old is None else best_of([old, candle])[0]
            known[candle.start_ms] = best if old is None or best.ticks is not None else best._replace(ticks=old.ticks)
        elif candle.interval != "1d":
            known[candle.start_ms] = candle._replace(revision=revision)
        elif old is None or old.state != "confirmed":
            state = min(candle.state, "closed", key=CERTAINTY.__getitem__)
            known[candle.start_ms] = candle._replace(state=state, revision=revision)
    return [known[start] for start in sorted(known)]


def doubtful_starts(
    holes: Iterable[tuple[int, int]], interval: str, segment: str, calendar: Calendar, *, sure_days: Collection[int] = ()
) -> set[int]:
    """Return the starts of the candles that a hole lies in, within sessions: of their minutes some may be missing. None of "1m".

    Args:
        holes: [from_ms, to_ms), ms UTC.
        sure_days: 00:00 IST of days that the broker's own daily bar has confirmed; holes in them count only for what is shorter.
    """
    anchors = calendar.anchors(segment)
    is_long = INTERVAL_MINUTES[interval] * MINUTE_MS >= DAY_MS
    found: set[int] = set()
    for from_ms, to_ms in holes if interval != "1m" else ():
        for day in range(day_start_ms(from_ms), to_ms, DAY_MS):
            hours = calendar.hours(segment, day)
            opens, closes = (day, day + DAY_MS) if hours is None else (hours.open_ms, hours.close_ms)
            at, until = max(from_ms, opens), min(to_ms, closes)
            while at < until and not (is_long and day in sure_days):
                found.add(bucket_start_ms(at, interval, anchors))
                at = bucket_end_ms(bucket_start_ms(at, interval, anchors), interval, anchors)
    return found


def doubted(candle: Candle, doubtful: Collection[int]) -> Candle:
    """Return a candle that claims no more than "closed" where it is doubtful."""
    if candle.start_ms in doubtful and CERTAINTY[candle.state] > CERTAINTY["closed"]:
        return candle._replace(state="closed")
    return candle


def live_marked(candles: Iterable[Candle], segment: str, calendar: Calendar, market_ms: int) -> list[Candle]:
    """Return the candles, those "live" that have not ended in market time.

    A day and what is shorter ends with the session at the latest, where the calendar knows it. Minutes are as their makers say,
    who knew the market's time better, and so are days that the broker has confirmed.
    """
    anchors = calendar.anchors(segment)

    def forms(candle: Candle) -> bool:
        if candle.start_ms + INTERVAL_MINUTES[candle.interval] * MINUTE_MS <= market_ms or candle.interval == "1m":
            return False
        if candle.interval == "1d" and candle.state == "confirmed":
            return False
        ends = bucket_end_ms(candle.start_ms, candle.interval, anchors)
        hours = calendar.hours(segment, candle.start_ms) if INTERVAL_MINUTES[candle.interval] * MINUTE_MS <= DAY_MS else None
        return (ends if hours is None else min(ends, hours.close_ms)) > market_ms

    return [candle._replace(state="live") if forms(candle) else candle for candle in candles]


def silences_filled(
    candles: list[Candle], segment: str, calendar: Calendar, market_ms: int, *, newest_first: bool = False
) -> Iterator[Candle]:
    """Give the candles, and flat ones of the close before where there is none between two of one day.

    Behind the day's last candle too, as far as the session has gone in market time, where the calendar knows its end. Never before
    a day's first candle, never from one session into the next, never days, weeks or months. They are made while they are taken:
    whoever wants a page of them stops there.

    Args:
        candles: oldest first.
        newest_first: give the last one first.
    """
    anchors = calendar.anchors(segment)
    followed = list(zip(candles, [*(candle.start_ms for candle in candles[1:]), None], strict=True))
    for candle, following in reversed(followed) if newest_first else followed:
        silence = _silence_after(candle, following, calendar.hours(segment, candle.start_ms), anchors, market_ms)
        yield from (*reversed(list(silence)), candle) if newest_first else chain([candle], silence)


def _silence_after(candle: Candle, following_ms: int | None, hours: Hours | None, anchors: Anchors, market_ms: int) -> Iterator[Candle]:
    """Give the flat candles between one and the following, or the end of its day's session."""
    if INTERVAL_MINUTES[candle.interval] * MINUTE_MS >= DAY_MS:
        return
    is_last = following_ms is None or day_start_ms(following_ms) != day_start_ms(candle.start_ms)
    until = (hours.close_ms if hours is not None else 0) if following_ms is None or is_last else following_ms
    start, close = bucket_end_ms(candle.start_ms, candle.interval, anchors), candle.close
    while start < until:
        end = bucket_end_ms(start, candle.interval, anchors)
        if is_last and min(end, until) > market_ms:
            return
        yield Candle(candle.instrument, candle.interval, start, close, close, close, close, 0, candle.open_interest, FILLED, 0, 0)
        start = end
