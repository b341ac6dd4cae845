"""One run of mending candles: what it may spend, what it asks of the broker, how an answer is written, and who is told.

One answer mends all that it can of its instrument and day, and is noted as a CandleFetch once that is written: whoever is killed and begins
again asks for nothing twice. Nothing here replaces a confirmed candle (`store.candles_write`). What the broker refuses for good is noted
with the instrument; any other failure ends the run, and what is left stays as it was. What a run is for, `broker.backfill` says.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import NamedTuple

from asgiref.sync import async_to_sync

from broker import backfill_plan as plan
from broker.backfill_plan import Sorted, Stretch, Subject, day_ms, day_of
from broker.candle_fetches import auction_ms, followed_read, minutes_stored, note_write, notes_read, settles
from broker.rest_pacing import RestPacer
from broker.upstox.protocol import Bar, Bars, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited
from broker.upstox.rest import UpstoxRest
from instruments.store import spots_read
from marketdata import bus, gaps, roll_up, store
from marketdata.calendar import calendar_read
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, candle_id
from marketdata.domain.gap import GapNotice

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 1800.0
"""After an answer that may not have been the broker's last word: yesterday's minutes in the small hours."""
VIOLATIONS = 3
"""Answers in a row that are none, or the broker's own failures, after which a run ends: fewer may be of one instrument alone, which must
not hold up all others."""
NOTICE_CANDLES = 2000
"""In one message on the bus."""
TELL_SECONDS = 2.0
PLUS_ONLY = "UDAPI1149"
Progress = Callable[[int, int, str], None]
"""Told of calls done, calls in all, and what the last one was for."""


class OutOfTime(Exception):
    """The run's time is over, or would be before the broker's limits allow another call. The next run goes on."""


class Mended(NamedTuple):
    """What a run did.

    Attributes:
        calls: asked of the broker.
        candles: that are new or other than before: 1-minute ones, or daily ones.
        missing: minutes of which nobody had known that they were missing.
        odd: rows of the broker's that were none, left out.
        empty: (instrument, day) without any bar at the broker.
        refused: instrument key → why the broker will not answer.
        failed: instrument key → why there was no answer now; the next run asks again.
        healed, impossible, waiting: gaps.
        complete: False where its time ran out first.
    """

    calls: int = 0
    candles: int = 0
    missing: int = 0
    odd: int = 0
    empty: int = 0
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    healed: int = 0
    impossible: int = 0
    waiting: int = 0
    complete: bool = True


class MendingRun:
    """One run: what it may spend, and what it has done.

    Args:
        now_ms: market time at its start, a lower bound of what it is later.
        seconds: after which it asks for nothing more.

    Attributes:
        now_ms: market time · ms UTC.
        today: its day in India.
        shards: how many feeds there are.
        moved: gaps that clients are still to be told of.
        counts: numbers of `Mended`.
        calls_planned: how many calls are foreseen in all, for who watches.
        complete: False where its time ran out first.
    """

    def __init__(self, rest: UpstoxRest, pacer: RestPacer, *, now_ms: int, seconds: float, progress: Progress | None = None) -> None:
        self.now_ms = now_ms
        self.today = day_of(now_ms)
        self.shards = spots_read().shards
        self.moved: list[GapNotice] = []
        self.counts: Counter[str] = Counter()
        self.calls_planned = 0
        self.complete = True
        self._rest = rest
        self._pacer = pacer
        self._deadline = time.monotonic() + seconds
        self._progress = progress
        self._calendar = calendar_read()
        self._auctions: dict[tuple[str, date], int | None] = {}
        self._followed: dict[tuple[int, date], dict[str, list[Stretch]]] = {}
        self._refused: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._violations = 0
        self._changed: list[Candle] = []
        self._told_at = time.monotonic()

    @property
    def is_out_of_time(self) -> bool:
        """Whether nothing more is to be asked for."""
        return time.monotonic() > self._deadline

    def mended(self) -> Mended:
        """Return what was done so far."""
        counts = self.counts
        numbers = {name: counts[name] for name in ("calls", "candles", "missing", "odd", "empty", "healed", "impossible", "waiting")}
        return Mended(**numbers, refused=dict(self._refused), failed=dict(self._failed), complete=self.complete)

    # --- what is to be asked ------------------------------------------------------------------------------------------

    def unsettled(self, wanted: Sequence[tuple[Subject, Stretch]]) -> list[tuple[Subject, tuple[date, date]]]:
        """Return the calls to be made for stretches of instruments: today's first, then earlier days by months; each in the given order."""
        notes = notes_read((subject.instrument, day) for subject, stretch in wanted for day in self.days(stretch))
        recently = datetime.now(UTC) - timedelta(seconds=ASK_AGAIN_SECONDS)
        today: list[tuple[Subject, tuple[date, date]]] = []
        earlier: list[tuple[Subject, tuple[date, date]]] = []
        for subject, stretch in wanted:
            open_days = []
            for day in self.days(stretch):
                note = notes.get((subject.instrument, day))
                in_vain = note is not None and store.time_ms(note.until) == day_ms(day) and note.fetched_at > recently
                if self.is_due(subject, day, stretch) and not settles(note, day, stretch) and not in_vain:
                    open_days.append(day)
            today += [(subject, (day, day)) for day in open_days if day == self.today]
            earlier += [(subject, span) for span in plan.month_spans(day for day in open_days if day != self.today)]
        return today + earlier

    def days(self, stretch: Stretch) -> list[date]:
        """Return the days of a stretch that the broker may have, newest first."""
        return [day for day in plan.days_within(stretch) if plan.FIRST_MINUTES <= day <= self.today]

    def is_due(self, subject: Subject, day: date, stretch: Stretch) -> bool:
        """Whether the instrument may have traded in the stretch's part of that day: yes where nobody knows."""
        opens, closes = self.session(subject, day)
        return max(stretch[0], opens) < min(stretch[1], closes)

    def session(self, subject: Subject, day: date) -> Stretch:
        """Return the hours of an instrument on a day: its segment's, up to its closing auction; the whole day where nobody knows them."""
        hours = self._calendar.hours(subject.segment, day_ms(day))
        opens, closes = (day_ms(day), day_ms(day) + DAY_MS) if hours is None else (hours.open_ms, hours.close_ms)
        if subject.auctioned:
            place = (subject.segment, day)
            if place not in self._auctions:
                self._auctions[place] = auction_ms(*place)
            auction = self._auctions[place]
            closes = closes if auction is None else min(closes, auction)
        return opens, closes

    def trades(self, subject: Subject, minute_ms: int) -> bool:
        """Whether a minute is of the continuous trading of an instrument: yes where nobody knows."""
        opens, closes = self.session(subject, day_of(minute_ms))
        return opens <= minute_ms < closes

    def _follows(self, subject: Subject, minute_ms: int) -> bool:
        """Whether the feed followed an instrument throughout a minute, as far as that is recorded."""
        place = (subject.instrument % self.shards, day_of(minute_ms))
        if place not in self._followed:
            self._followed[place] = followed_read(place[1], shard=place[0], shards=self.shards)
        stretches = self._followed[place].get(subject.key, ())
        return any(start <= minute_ms and minute_ms + MINUTE_MS <= end for start, end in stretches)

    def is_of(self, instrument: int, gap: GapNotice) -> bool:
        """Whether an instrument is of a gap's feed; of one that has been given up since, whoever has its place now."""
        return instrument % self.shards == gap.shard % self.shards

    def _holes_of(self, subject: Subject) -> list[Stretch]:
        """Return the open gaps that an instrument is concerned by, as whole minutes; read anew, as one that ends meanwhile counts."""
        return [
            plan.minutes_around(gap.start_ms, gap.end_ms)
            for gap in gaps.gaps_open()
            if (subject.instrument in gap.instruments if gap.instruments else self.is_of(subject.instrument, gap))
        ]

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask_all(self, calls: Iterable[tuple[Subject, tuple[date, date]]]) -> None:
        """Ask for the minutes of each. Raises as `ask`."""
        for subject, (first, last) in calls:
            self.ask(subject, first, last)

    def ask(self, subject: Subject, first: date, last: date, *, whole: bool = False) -> None:
        """Ask for the minutes of some days that follow on each other, and write what they mend; all of them where `whole` is wanted.

        Raises:
            OutOfTime: before that.
            BrokerError: no other call would fare better now.
        """
        days = [last - timedelta(days=back) for back in range((last - first).days + 1)]
        call = partial(self._rest.historical_bars, subject.key, "minutes", 1, first=first, last=last)
        if last >= self.today:
            call = partial(self._rest.intraday_bars, subject.key, "minutes", 1)
        answer = self._fetch(subject, days, call)
        if answer is None:
            return
        self.now_ms = min(self.now_ms, self._rest.answered_ms or self.now_ms)  # our clock may be fast
        stored = {candle.start_ms: candle for candle in minutes_stored(subject, first, last)}
        result = plan.sort_out(
            subject,
            answer.bars,
            set(days),
            states={start: candle.state for start, candle in stored.items()},
            holes=self._holes_of(subject),
            now_ms=self.now_ms,
            trades=lambda minute_ms: self.trades(subject, minute_ms),
            followed=lambda minute_ms: self._follows(subject, minute_ms),
            whole=whole,
        )
        self.counts["odd"] += answer.odd + result.odd
        self._write(subject, result, stored)
        self.note(subject, days, answer.bars, whole=whole)

    def ask_days(self, subject: Subject, first: date, last: date) -> bool:
        """Ask for daily bars and write them; say whether there was an answer. Raises as `ask`."""
        days = {first + timedelta(days=forth) for forth in range((last - first).days + 1)}
        call = partial(self._rest.historical_bars, subject.key, "days", 1, first=first, last=last)
        answer = self._fetch(subject, [self.today], call, daily=True)
        if answer is None:
            return False
        bars, odd = plan.usable(answer.bars, days, length_ms=DAY_MS)
        self.counts["odd"] += answer.odd + odd
        read = partial(store.candles_read, subject.instrument, "1d", from_ms=day_ms(first), to_ms=day_ms(last) + DAY_MS, limit=len(days))
        before = set(read())
        self.counts["candles"] += roll_up.daily_confirm([plan.candle_of(subject, bar, "1d", "confirmed") for bar in bars])
        self._changed += [candle for candle in read() if candle not in before]
        self.tell_sometimes()
        return True

    def _fetch(self, subject: Subject, days: Sequence[date], call: Callable[[], Bars], *, daily: bool = False) -> Bars | None:
        """Make one call when the limits allow it. None: there is no answer, for good (which is noted) or for now. Raises as `ask`."""
        while True:
            if self.is_out_of_time or not self._pacer.acquire(self._deadline - time.monotonic()):
                raise OutOfTime
            self.counts["calls"] += 1
            if self._progress is not None:
                self._progress(self.counts["calls"], max(self.calls_planned, self.counts["calls"]), subject.key)
            try:
                answer = call()
                self._violations = 0
                return answer
            except RateLimited as error:
                self._pacer.pause(error.retry_after)
                if time.monotonic() + error.retry_after > self._deadline:
                    raise
            except (ProtocolViolation, FeedUnavailable) as error:
                self._violations += 1
                if self._violations >= VIOLATIONS or (isinstance(error, FeedUnavailable) and not error.status):  # nobody answered at all
                    raise
                self._failed[subject.key] = str(error)
                return None
            except FeedRefused as error:
                if not error.permanent or (error.status != 400 and error.code != PLUS_ONLY):
                    raise
                self._refused[subject.key] = str(error)
                self.note(subject, days, (), daily=daily, refused=str(error))
                return None

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, subject: Subject, result: Sorted, stored: dict[int, Candle]) -> None:
        """Write minutes, roll up what they touch, record what was missing."""
        if not result.candles:
            return
        built = {
            candle_id(subject.instrument, "1m", candle.start_ms): (old.open, old.high, old.low, old.close, float(old.volume))
            for candle in result.candles
            if candle.state == "confirmed" and (old := stored.get(candle.start_ms)) is not None
        }
        self.counts["candles"] += store.candles_write(result.candles, built)
        self._changed += roll_up.candles_roll_up_minutes({(subject.instrument, candle.start_ms) for candle in result.candles})
        starts = {candle.start_ms for candle in result.candles}
        first, last = day_of(min(starts)), day_of(max(starts))
        self._changed += [
            candle for candle in minutes_stored(subject, first, last) if candle.start_ms in starts and candle != stored.get(candle.start_ms)
        ]
        shard = subject.instrument % self.shards
        for start_ms, end_ms in result.missing:
            self.counts["missing"] += (end_ms - start_ms) // MINUTE_MS
            self.moved.append(gaps.gap_missing_record(shard=shard, start_ms=start_ms, end_ms=end_ms, instruments=[subject.instrument]))
        self.tell_sometimes()

    def note(
        self, subject: Subject, days: Iterable[date], bars: Sequence[Bar], *, whole: bool = False, daily: bool = False, refused: str = ""
    ) -> None:
        """Note what was answered of each day, now that it is written."""
        found = Counter(day_of(bar.start_ms) for bar in bars)
        for day in days:
            final = note_write(subject, day, bars=found[day], now_ms=self.now_ms, whole=whole, daily=daily, refused=refused)
            self.counts["empty"] += final and not found[day] and not refused

    def tell_sometimes(self) -> None:
        """Tell what there is, unless that is little and was done a moment ago."""
        if len(self._changed) >= NOTICE_CANDLES or time.monotonic() - self._told_at > TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Tell every hub what has changed. What is not heard is lost: whoever asks REST has it."""
        while self._changed or self.moved:
            notice = bus.Notice(self._changed[:NOTICE_CANDLES], self.moved)
            del self._changed[:NOTICE_CANDLES]
            self.moved = []
            try:
                async_to_sync(bus.publish_notice_once)(notice)
            except bus.Unavailable as error:
                self._changed.clear()
                log.warning("backfill: clients are not told of %d candles and %d gaps: %s", len(notice.candles), len(notice.gaps), error)
        self._told_at = time.monotonic()
