"""The charts of one hub: the newest minutes of every instrument, and a Series of each chart that somebody follows.

A series is registered first and read from the store then, in a thread, while minutes go on coming: with the newest minutes that
the hub has anyway, nothing between history and stream is lost, and nothing is doubled, since a candle is one entry by its start.
It is read again after a loss, when healing has told of its instrument, and every few minutes in any case.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable

from channels.db import database_sync_to_async
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from marketdata.commands import CANDLES_MAX
from marketdata.domain.candle import Candle
from marketdata.domain.gap import GapNotice
from marketdata.ohlc_series import BY_DAYS, Series, Stored, first_part_ms, supersedes
from marketdata.outbox import Outbox
from marketdata.selectors import calendar_read, candles_of, holes_read

logger = logging.getLogger(__name__)

RECENT_MINUTES = 5
"""So many of each instrument are kept: more than the store is late by."""
LOADS = 4
"""Series that are read at the same time."""
REFRESH_SECONDS = 300.0
"""A series is read again so often: a lost notice, a late correction of what is old."""
UNSURE_SECONDS = 20.0
"""At first, and after a loss, it is read at once and again so much later: what was missed may not have been in the store yet."""
RETRY_SECONDS = 2.0
IDLE_SECONDS = 60.0
IDLE_MAX = 200
"""A series that nobody has followed for so long is dropped, and the oldest of more than so many."""
BACK_MS = 3_600_000
"""Market time that is so much earlier than before is another day's."""
FORGET_MS = 86_400_000
"""Minutes so much older than the newest are dropped: contracts expire."""
PARTS_MAX = 5_000
"""More minutes than two days can have."""


class OhlcChannels:
    """All charts of one event loop. `recent_minutes` may be called from any thread.

    Args:
        market_ms: market time · ms UTC.
        wake: called with outboxes that have been given something by a reading.
    """

    def __init__(self, market_ms: Callable[[], int], wake: Callable[[Iterable[Outbox]], None]) -> None:
        self._market_ms, self._wake = market_ms, wake
        self._recent: dict[int, dict[int, tuple[Candle, ...]]] = {}
        """Shard → instrument → its newest minutes, oldest first."""
        self._series: dict[tuple[int, str], Series] = {}
        self._of: dict[int, dict[Series, set[Outbox]]] = {}
        """Instrument → series → who follows."""
        self._due: dict[Series, float] = {}
        """When each series is to be read · monotonic; infinity while it is being read."""
        self._unsure: set[Series] = set()
        self._idle: dict[Series, float] = {}
        self._changed = asyncio.Event()
        self._is_failing = False
        self._known_ms = 0

    def __len__(self) -> int:
        """Return how many series there are."""
        return len(self._series)

    # --- who follows ----------------------------------------------------------------------------------------------------
    def follow(self, outbox: Outbox, instrument: int, key: str, interval: str, candles: int) -> Series:
        """Let a client follow a chart; it is owed the newest candles."""
        series = self._series.get((instrument, interval))
        if series is None:
            series = self._series[instrument, interval] = Series(instrument, key, interval)
            self._of.setdefault(instrument, {})[series] = set()
            self._read_twice(series)
        series.key = key  # a living contract may have got another
        self._of[instrument][series].add(outbox)
        if self._idle.pop(series, None) is not None:
            self._changed.set()  # it may be due
        outbox.follow_chart(series, candles)
        return series

    def unfollow(self, outbox: Outbox, series: Series) -> bool:
        """Let a client follow a chart no more. False: it did not."""
        outboxes = self._of.get(series.instrument, {}).get(series, set())
        outboxes.discard(outbox)
        if not outboxes and series in self._due:
            self._idle[series] = time.monotonic()
            if len(self._idle) > IDLE_MAX:
                self._drop(next(iter(self._idle)))
        return outbox.unfollow_chart(series)

    def _drop(self, series: Series) -> None:
        del self._series[series.instrument, series.interval], self._of[series.instrument][series], self._due[series], self._idle[series]
        self._unsure.discard(series)
        if not self._of[series.instrument]:
            del self._of[series.instrument]

    # --- what comes -----------------------------------------------------------------------------------------------------
    def recent_minutes(self, instrument: int) -> list[Candle]:
        """Return the newest 1-minute candles that the feed has told, oldest first; those of its present shard, if there were others."""
        told = [held for recent in list(self._recent.values()) if (held := recent.get(instrument))]
        newest: tuple[Candle, ...] = max(told, key=lambda minutes: minutes[-1].start_ms, default=())
        return list(newest)

    def key_of(self, instrument: int) -> str:
        """Return the key that an instrument is followed by; `id:<n>` where it is not."""
        return next((series.key for series in self._of.get(instrument, ())), f"id:{instrument}")

    def take(self, shard: int, minutes: Iterable[Candle]) -> set[Outbox]:
        """Take 1-minute candles of a feed; return who has been given something."""
        recent, followed = self._recent.setdefault(shard, {}), self._of
        touched: set[Outbox] = set()
        for minute in minutes:
            instrument = minute.instrument
            held = recent.get(instrument)
            if held is None:
                recent[instrument] = (minute,)
            elif held[-1].start_ms == minute.start_ms:
                recent[instrument] = (*held[:-1], minute)
            else:
                recent[instrument] = _with(held, minute)
            if instrument in followed:
                for series, outboxes in followed[instrument].items():
                    if series.take(minute):
                        touched |= _mark(series, outboxes)
        return touched

    def correct(self, candles: Iterable[Candle], gaps: Iterable[GapNotice] = ()) -> set[Outbox]:
        """Take candles that healing has changed, of whatever interval, and gaps that are new or have moved; return who has been given
        something at once.

        What they touch is read again: coarser candles follow from the store.
        """
        for instrument in {each for gap in gaps for each in gap.instruments or list(self._of)}:
            for series in self._of.get(instrument, {}):
                if series.interval != "1m":  # of a minute a gap says nothing
                    self._read(series)
        touched: set[Outbox] = set()
        market_ms = self._market_ms()
        for candle in candles:
            is_minute = candle.interval == "1m" and candle.start_ms <= market_ms  # a replay's future is no chart's time
            if is_minute:
                self._correct_recent(candle)
            for series, outboxes in self._of.get(candle.instrument, {}).items():
                self._read(series)
                if is_minute and series.take(candle):
                    touched |= _mark(series, outboxes)
        return touched

    def _correct_recent(self, minute: Candle) -> None:
        for recent in self._recent.values():
            held = recent.get(minute.instrument)
            if held is not None:
                better = (minute if minute.start_ms == old.start_ms and supersedes(minute, old) else old for old in held)
                recent[minute.instrument] = tuple(better)

    def pass_time(self, market_ms: int) -> set[Outbox]:
        """Note market time; return who has been given something. Where it goes back (a replay begins), everything begins anew."""
        was_ms, self._known_ms = self._known_ms, market_ms
        if market_ms < was_ms - BACK_MS:
            self._reset(self._series.values())
        touched: set[Outbox] = set()
        for followed in self._of.values():
            for series, outboxes in followed.items():
                if series.pass_time(market_ms):
                    touched |= _mark(series, outboxes)
        return touched

    def begin_again(self, shard: int) -> None:
        """Forget what a feed has told: it has started again, maybe with another day."""
        self._reset(series for instrument in self._recent.pop(shard, {}) for series in self._of.get(instrument, {}))

    def _reset(self, those: Iterable[Series]) -> None:
        for series in those:
            series.reset()
            self._read_twice(series)

    def read_again(self) -> None:
        """Read every series again: something may be missing."""
        for series in self._series.values():
            self._read_twice(series)

    def forget_old(self) -> None:
        """Drop minutes of instruments that have not traded for long."""
        for recent in self._recent.values():
            newest = max((held[-1].start_ms for held in recent.values()), default=0)
            for instrument in [instrument for instrument, held in recent.items() if held[-1].start_ms < newest - FORGET_MS]:
                del recent[instrument]

    # --- the store ------------------------------------------------------------------------------------------------------
    def _read(self, series: Series) -> None:
        self._due[series] = 0.0
        self._changed.set()

    def _read_twice(self, series: Series) -> None:
        self._read(series)
        self._unsure.add(series)

    async def load_step(self) -> None:
        """Read what is followed and due, or wait a second for something to be; drop what nobody has followed for long."""
        self._changed.clear()
        now = time.monotonic()
        for series in [series for series, since in self._idle.items() if now - since > IDLE_SECONDS]:
            self._drop(series)
        due = [series for series, at in self._due.items() if at <= now and series not in self._idle][:LOADS]
        if due:
            await asyncio.gather(*map(self._load, due))
            return
        try:
            async with asyncio.timeout(1):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _load(self, series: Series) -> None:
        self._due[series] = math.inf
        pause = RETRY_SECONDS
        try:
            if await self._filled(series):
                self._wake(_mark(series, self._of.get(series.instrument, {}).get(series, set())))
            pause = REFRESH_SECONDS
            if self._due.get(series) == math.inf and series in self._unsure:
                self._unsure.discard(series)
                pause = UNSURE_SECONDS
            self._is_failing = False
        except (PyMongoError, DatabaseError) as error:
            if not self._is_failing:
                logger.warning("candles cannot be read; trying on: %s", error)
            self._is_failing = True
        finally:
            if series in self._due:
                self._due[series] = min(self._due[series], time.monotonic() + pause)

    async def _filled(self, series: Series) -> bool:
        """Read the store; return whether clients have to be told."""
        market_ms, resets = self._market_ms(), series.resets
        self._known_ms = max(self._known_ms, market_ms)
        market_ms = max([market_ms, *(minute.start_ms for minute in self.recent_minutes(series.instrument))])  # a fast replay is ahead
        read = database_sync_to_async(stored_read, thread_sensitive=False)
        stored = await read(series.instrument, series.key, series.interval, market_ms)
        return series.resets == resets and series.fill(stored, self.recent_minutes(series.instrument))


def _with(held: tuple[Candle, ...], minute: Candle) -> tuple[Candle, ...]:
    """Return the newest minutes with one more, or with another in its place. Never a live one before others: the feed began again then."""
    if minute.state == "live" and minute.start_ms < held[-1].start_ms:
        return (minute,)
    by_start = {old.start_ms: old for old in held} | {minute.start_ms: minute}
    return tuple(by_start[start] for start in sorted(by_start)[-RECENT_MINUTES:])


def _mark(series: Series, outboxes: set[Outbox]) -> set[Outbox]:
    for outbox in outboxes:
        outbox.mark_chart(series)
    return outboxes


def stored_read(instrument: int, key: str, interval: str, market_ms: int) -> Stored:
    """Read what a series needs of the store.

    Raises:
        pymongo.errors.PyMongoError, django.db.DatabaseError: worth a retry.
    """

    def read(which: str, from_ms: int = 0, limit: int = PARTS_MAX, *, newest_first: bool = False) -> list[Candle]:
        return candles_of(instrument, which, from_ms=from_ms, to_ms=market_ms + 1, limit=limit, newest_first=newest_first, segment=segment)

    segment = key.partition("|")[0]
    calendar = calendar_read()
    anchors = calendar.anchors(segment)
    candles = read(interval, limit=CANDLES_MAX, newest_first=True)[::-1]
    if interval == "1m":
        return Stored(calendar, market_ms, 0, [], 0, [], candles)
    newest = read("1m", limit=1, newest_first=True)
    if not newest:  # whatever minutes come are whole
        days = read("1d", first_part_ms(market_ms, interval, anchors)) if interval in BY_DAYS else []
        return Stored(calendar, market_ms, 0, [], 0, days, candles)
    days_from_ms = first_part_ms(newest[0].start_ms, interval, anchors)
    minutes_from_ms = first_part_ms(newest[0].start_ms, "1d", anchors) if interval in BY_DAYS else days_from_ms
    days = read("1d", days_from_ms) if interval in BY_DAYS else []
    holes = holes_read(instrument, days_from_ms, market_ms + 1)
    return Stored(calendar, market_ms, minutes_from_ms, read("1m", minutes_from_ms), days_from_ms, days, candles, holes)
