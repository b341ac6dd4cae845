"""One instrument's candles of one interval as clients follow them: the newest few hundred, each numbered at its last change. Pure.

Laws: `seq` counts changes, and each candle carries the number of its last one. Who has seen all up to a number is given the
candles with higher numbers: the first drain is the whole, changes of the same candle merge by themselves, and a finished
candle stays owed for as long as it is among the newest. Where one that a client has not seen has fallen out of those, it gets
the whole again.

Minutes are the base. The newest buckets are folded from their minutes, whatever the store says of them; weeks and months from
days, today's day from minutes. Older candles are the store's. A candle whose interval has not ended in market time is "live".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from marketdata.commands import CANDLES_MAX
from marketdata.domain.candle import (
    CERTAINTY,
    MINUTE_MS,
    NSE_ANCHORS,
    Anchors,
    Candle,
    fold_candles,
)
from marketdata.domain.chart import bucket_end_ms, bucket_start_ms, doubted, doubtful_starts, in_session
from marketdata.domain.session import Calendar
from marketdata.wire import candle_fragment, ohlc_push, ohlc_snapshot_push

BY_DAYS = ("1w", "1M")
"""Intervals that are folded from days."""
SUMMED = ("3m", *BY_DAYS)
"""Intervals whose parts here are those that REST folds: the revision is the sum of the parts'. The others have the store's."""
NOTHING = -1
"""What a client has seen that was given nothing yet."""
MANY = 50
"""More changed candles than this are told as a whole chart."""
LATE_MS = 60 * MINUTE_MS
"""Minutes so much older than the newest, and those of the bucket before, may be corrected one by one; what is older, the store tells."""


_OPEN, _TICKS = (Candle._fields.index(name) for name in ("open", "ticks"))


def supersedes(new: Candle, old: Candle) -> bool:
    """Whether a candle replaces another of the same minute: it is more certain; or as certain, and not of an older revision."""
    return (CERTAINTY[new.state], new.revision) >= (CERTAINTY[old.state], old.revision)


class Stored(NamedTuple):
    """What the store has of a series; each list oldest first.

    Attributes:
        calendar: the sessions that are known.
        market_ms: market time · ms UTC.
        minutes_from_ms: `minutes` are whole from here: see `first_part_ms`, for days where the interval is longer.
        minutes: 1-minute candles; none are needed for the interval "1m".
        days_from_ms: `days` are whole from here.
        days: daily candles, for weeks and months.
        candles: the newest of the interval itself.
        holes: gaps that are not healed, of the time of the minutes and days above: [from, to), ms UTC.
    """

    calendar: Calendar
    market_ms: int
    minutes_from_ms: int
    minutes: list[Candle]
    days_from_ms: int
    days: list[Candle]
    candles: list[Candle]
    holes: Sequence[tuple[int, int]] = ()


class Drained(NamedTuple):
    """What a client is given of a series.

    Attributes:
        frames: ready-made pushes.
        seen: number of the last change in them.
        merged: changes that newer ones of the same candle replaced; 0 for a snapshot.
        is_snapshot: whether it is one push that replaces all that the client has.
    """

    frames: list[bytes]
    seen: int
    merged: int = 0
    is_snapshot: bool = False


class _Entry:
    """A candle as it is told, as it was made, its number, and its bytes once somebody wanted them."""

    __slots__ = ("_fragment", "_push", "candle", "made", "stamp")

    def __init__(self, candle: Candle, made: Candle, stamp: int) -> None:
        self.candle, self.made, self.stamp = candle, made, stamp
        self._fragment = self._push = b""

    def fragment(self) -> bytes:
        if not self._fragment:
            self._fragment = candle_fragment(self.candle)
        return self._fragment

    def push(self, key: str) -> bytes:
        if not self._push:
            self._push = ohlc_push(key, self.candle.interval, self.stamp, self.fragment())
        return self._push


class _Bucket:
    """The parts of one candle, and the fold of all but the newest, so that a forming minute costs one step."""

    __slots__ = ("before", "newest_ms", "parts")

    def __init__(self) -> None:
        self.parts: dict[int, Candle] = {}
        self.newest_ms = 0
        self.before: list[Candle] | None = None

    def add(self, part: Candle) -> bool:
        """Take a part; False: it was known, or is worse than what is known."""
        start = part.start_ms
        old = self.parts.get(start)
        if old is not None and (old == part or (part.interval == "1m" and not supersedes(part, old))):
            return False
        if old is None or start != self.newest_ms:
            self.before = None
        self.newest_ms = max(self.newest_ms, start)
        self.parts[start] = part
        return True

    def fold(self, interval: str, anchors: Anchors) -> Candle:
        if self.before is None:
            before = [self.parts[start] for start in sorted(self.parts) if start != self.newest_ms]
            self.before = fold_candles(before, interval, anchors)
        return fold_candles([*self.before, self.parts[self.newest_ms]], interval, anchors)[0]


def first_part_ms(time_ms: int, interval: str, anchors: Anchors) -> int:
    """Return from where parts are needed when the newest is at `time_ms`: the bucket before, and LATE_MS at least."""
    start = bucket_start_ms(time_ms, interval, anchors)
    return bucket_start_ms(min(start - 1, time_ms - LATE_MS), interval, anchors)


class Series:
    """The newest candles of one instrument and interval, for all their clients.

    Attributes:
        instrument: our instrument id.
        key: the broker's instrument key.
        interval: one of INTERVAL_MINUTES.
        seq: number of the last change.
        is_filled: whether the store was read; nothing is drained before.
        resets: how often everything was forgotten: what was read of the store before that is not for `fill` any more.
    """

    def __init__(self, instrument: int, key: str, interval: str) -> None:
        self.instrument, self.key, self.interval = instrument, key, interval
        self.seq = self.resets = 0
        self.is_filled = False
        self._segment = key.partition("|")[0]
        self._calendar = Calendar()
        self._anchors = NSE_ANCHORS
        self._market_ms = 0
        self._from_ms = 0
        """Parts are whole from here; older ones are not taken."""
        self._entries: dict[int, _Entry] = {}
        """Start → candle, in the order of their last changes."""
        self._fallen = NOTHING
        """Number of the last change of what is not among the newest any more."""
        self._buckets: dict[int, _Bucket] = {}
        self._ends: dict[int, int] = {}
        """Start → end of candles that are live because their interval has not ended."""
        self._doubtful: set[int] = set()
        """Starts of candles that a gap lies in."""
        self._days = Series(instrument, key, "1d") if interval in BY_DAYS else None
        self._days_seen = NOTHING

    def candles(self) -> list[Candle]:
        """Return the newest candles, oldest first."""
        return [self._entries[start].candle for start in sorted(self._entries)]

    # --- what comes -----------------------------------------------------------------------------------------------------
    def take(self, minute: Candle) -> bool:
        """Apply a 1-minute candle; False: no candle has changed by it."""
        before = self.seq
        if not list(in_session([minute], self._segment, self._calendar)):
            return False
        self.pass_time(minute.start_ms + (0 if minute.state == "live" else MINUTE_MS))
        if self._days is not None:
            if self._days.take(minute):
                self._take_days(self._days)
        elif self.interval == "1m":
            self._take_minute(minute)
        else:
            self._take_parts([minute])
        return self.seq != before

    def pass_time(self, market_ms: int) -> bool:
        """Note market time; False: no candle has ended by it."""
        before = self.seq
        if market_ms > self._market_ms:
            self._market_ms = market_ms
            if self._days is not None and self._days.pass_time(market_ms):
                self._take_days(self._days)
            for start in [start for start, end in self._ends.items() if end <= market_ms]:
                self._put(self._entries[start].made)
        return self.seq != before

    def fill(self, stored: Stored, recent: Iterable[Candle] = ()) -> bool:
        """Merge what the store has with what came by itself, and with minutes that may be on their way to the store.

        Returns:
            Whether a client has to be told: something has changed, or this was the first time.
        """
        before, was_filled = self.seq, self.is_filled
        self._take_calendar(stored.calendar)
        self.pass_time(max([stored.market_ms, *(minute.start_ms + MINUTE_MS for minute in stored.minutes[-1:])]))
        if self._days is not None:
            self._forget_before(stored.days_from_ms)
            self._days.fill(stored._replace(days=[], candles=stored.days))
            self._doubt(stored)
            self._take_days(self._days)
        else:
            self._doubt(stored)
            self._forget_before(stored.minutes_from_ms)
            self._take_parts(stored.minutes)
        for candle in stored.candles:
            self._take_stored(candle)
        for minute in recent:
            self.take(minute)
        self.is_filled = True
        return self.seq != before or not was_filled

    def reset(self) -> None:
        """Forget everything: the feed begins again, maybe with another day. `fill` comes next, and everybody gets the whole."""
        self._clear()
        self.resets += 1
        self._market_ms = self._from_ms = 0
        self.is_filled = False
        if self._days is not None:
            self._days.reset()

    def _clear(self) -> None:
        for each in (self._entries, self._buckets, self._ends):
            each.clear()
        self.seq += 1
        self._fallen = self.seq

    def _take_calendar(self, calendar: Calendar) -> None:
        """Note the sessions: what forms ends with them, and where intervals are counted from elsewhere, what came is folded anew."""
        self._calendar, anchors = calendar, calendar.anchors(self._segment)
        if anchors != self._anchors:
            self._anchors = anchors
            parts = [part for bucket in self._buckets.values() for part in bucket.parts.values()]
            if parts:
                self._clear()
                self._take_parts(in_session(parts, self._segment, calendar))
        for start in list(self._ends):
            self._put(self._entries[start].made)

    def _doubt(self, stored: Stored) -> None:
        """Note where gaps lie: what is told of these candles follows with the stored ones."""
        days = () if self._days is None else self._days.candles()
        sure = {day.start_ms for day in (*days, *stored.candles) if (day.interval, day.state) == ("1d", "confirmed")}
        self._doubtful = doubtful_starts(stored.holes, self.interval, self._segment, self._calendar, sure_days=sure)

    def _forget_before(self, from_ms: int) -> None:
        self._from_ms = max(self._from_ms, from_ms)
        for start in [start for start in self._buckets if start < self._from_ms]:
            del self._buckets[start]

    # --- what becomes of it ---------------------------------------------------------------------------------------------
    def _take_minute(self, minute: Candle) -> None:
        old = self._entries.get(minute.start_ms)
        if old is None or supersedes(minute, old.candle):
            self._put(minute)

    def _take_days(self, days: Series) -> None:
        self._take_parts([entry.candle for entry in days._newer(self._days_seen)])
        self._days_seen = days.seq

    def _take_parts(self, parts: Iterable[Candle]) -> None:
        changed = set()
        for part in parts:
            start = bucket_start_ms(part.start_ms, self.interval, self._anchors)
            if start < self._from_ms:
                continue
            bucket = self._buckets.get(start)
            if bucket is None:
                bucket = self._buckets[start] = _Bucket()
                if start == max(self._buckets):
                    self._forget_before(first_part_ms(part.start_ms, self.interval, self._anchors))
            if bucket.add(part):
                changed.add(start)
        for start in sorted(changed & self._buckets.keys()):
            self._put_folded(self._buckets[start].fold(self.interval, self._anchors))

    def _put_folded(self, folded: Candle) -> None:
        if self.interval == "1d":
            old = self._entries.get(folded.start_ms)
            if old is not None and old.made.state == "confirmed":
                return  # by the broker's own daily candle
            folded = folded._replace(state=min(folded.state, "closed", key=CERTAINTY.__getitem__))
        self._put(folded if self.interval in SUMMED else folded._replace(revision=0))

    def _take_stored(self, candle: Candle) -> None:
        if self.interval == "1m":
            self._take_minute(candle)
        elif candle.start_ms not in self._buckets or (self.interval == "1d" and candle.state == "confirmed"):
            self._put(candle)
        elif (known := self._entries.get(candle.start_ms)) is not None:
            self._put(known.made._replace(revision=candle.revision))

    def _put(self, made: Candle) -> None:
        """Tell a candle from now on, if that is news."""
        start = made.start_ms
        old = self._entries.get(start)
        if old is None and len(self._entries) >= CANDLES_MAX and start < min(self._entries):
            return
        candle = made if self.interval == "1m" else self._as_told(made, None if old is None else old.candle)
        if old is not None:
            if old.candle[_OPEN:_TICKS] == candle[_OPEN:_TICKS]:
                old.made = made
                return
            del self._entries[start]
        self.seq += 1
        self._entries[start] = _Entry(candle, made, self.seq)
        if len(self._entries) > CANDLES_MAX:
            oldest = min(self._entries)
            self._fallen = max(self._fallen, self._entries.pop(oldest).stamp)
            self._ends.pop(oldest, None)

    def _as_told(self, made: Candle, told: Candle | None) -> Candle:
        """Return a folded or stored candle with its state in market time, and the newest revision that the store has told of it."""
        start = made.start_ms
        revision = made.revision if told is None else max(made.revision, told.revision)
        end = self._end_ms(made)
        if end <= self._market_ms:
            self._ends.pop(start, None)
            return doubted(made, self._doubtful)._replace(revision=revision)
        self._ends[start] = end
        return made._replace(state="live", revision=revision)

    def _end_ms(self, made: Candle) -> int:
        """Return when a candle ends, in market time: with the session at the latest, where that is known."""
        if self.interval == "1d" and made.state == "confirmed":
            return 0
        end = bucket_end_ms(made.start_ms, self.interval, self._anchors)
        hours = None if self.interval in BY_DAYS else self._calendar.hours(self._segment, made.start_ms)
        return end if hours is None else min(end, hours.close_ms)

    # --- what goes out --------------------------------------------------------------------------------------------------
    def _newer(self, seen: int) -> list[_Entry]:
        """Return what has changed since, in the order of the changes."""
        return list(takewhile(lambda entry: entry.stamp > seen, reversed(self._entries.values())))[::-1]

    def drain(self, seen: int, candles: int) -> Drained:
        """Return what has changed since a client was given something.

        Args:
            seen: `Drained.seen` of the last time; NOTHING at first.
            candles: how many the whole has.
        """
        if not self.is_filled or seen == self.seq:
            return Drained([], seen)
        newer = self._newer(seen)
        if seen == NOTHING or seen < self._fallen or len(newer) > MANY:
            newest = sorted(self._entries)[-candles:]
            fragments = [self._entries[start].fragment() for start in newest]
            return Drained([ohlc_snapshot_push(self.key, self.interval, self.seq, fragments)], self.seq, is_snapshot=True)
        return Drained([entry.push(self.key) for entry in newer], self.seq, self.seq - seen - len(newer))
