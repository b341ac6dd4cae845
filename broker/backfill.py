"""Mends the stored candles from the broker's REST: holes, minutes that only ticks have made, days, and history from before the feed.

One answer mends all that it can of its instrument and day, and is noted as a CandleFetch once that is written: whoever is killed and begins
again asks for nothing twice. Nothing here replaces a confirmed candle (`store.candles_write`). What the broker refuses for good is noted
with the instrument; any other failure ends the run, and what is left stays as it was.

A run goes gap by gap, the newest first. Each is healed, or impossible and says why, or stays open and says what it waits for.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import NamedTuple

from asgiref.sync import async_to_sync
from bson.datetime_ms import DatetimeMS
from django.conf import settings

from broker import backfill_plan as plan
from broker.backfill_plan import Sorted, Stretch, Subject, day_ms, day_of
from broker.candle_fetches import (
    auction_ms,
    followed_read,
    instruments_around,
    instruments_of,
    minutes_final,
    minutes_stored,
    note_write,
    notes_read,
    settles,
    subjects_read,
)
from broker.rest_pacing import RestPacer
from broker.sessions import token_current
from broker.upstox.protocol import Bar, Bars, FeedRefused, FeedUnavailable, ProtocolViolation, RateLimited
from broker.upstox.rest import UpstoxRest
from instruments.selectors import followed, market_now
from instruments.store import spots_read
from marketdata import bus, gaps, live_state, roll_up, store
from marketdata.calendar import calendar_read
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle, candle_id
from marketdata.domain.gap import GapNotice
from marketdata.models import Gap

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 1800.0
"""After an answer that may not have been the broker's last word: yesterday's minutes in the small hours."""
CLOCKS_MS = 5_000
"""The broker's clock may be behind ours by so much: else the first call of a run at a full minute would come too early for its gap."""
CONFIRM_AFTER_MS = 120_000
"""A minute that still has its candle from ticks alone so long after its end is asked for; the feed's own bar nearly always comes sooner."""
CONFIRM_BACK_MS = 30 * MINUTE_MS
"""How far back each run looks for such minutes; the rest of the day comes with them, or with the audit."""
AUDIT_AFTER_MS = 15 * MINUTE_MS
"""Past the close of its segment each instrument's day is compared with the broker's, once."""
AUDIT_DAYS = 4
DAILY_DAYS = 7
WHOLE_MS = 30 * MINUTE_MS
"""Holes up to so long may be whole by the feed's own bars: a reconnect of a second must not cost a call for each instrument."""
CONFIRM_SHARE = 0.6
"""Of the calls: confirming may wait, gaps and people may not."""
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


def market_now_ms(rest: UpstoxRest) -> int:
    """Return market time, ms UTC: with the broker our clock, with the simulated exchange (which may replay another day) the exchange's.

    Raises:
        BrokerError: the exchange does not say.
    """
    try:
        reported = max((status.data_ms for status in live_state.statuses_read()), default=0)
    except live_state.Unavailable:
        reported = 0
    if settings.EXCHANGE_URL:
        return max(reported, rest.market_status("NSE").updated_ms)
    return max(reported, time.time_ns() // 1_000_000)


def candles_mend(*, seconds: float = 45.0, now_ms: int | None = None) -> Mended:
    """Heal the open gaps, then confirm what the feed's bars did not, then compare the days that are over; as far as the time goes.

    Args:
        seconds: the run ends about so long after its start.
        now_ms: market time; asked for by default.

    Raises:
        BrokerError: the token, the limits or the network: what is left stays for the next run.
        pymongo.errors.PyMongoError: the same.
    """
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        now = market_now_ms(rest) if now_ms is None else now_ms
        urgent = Mender(rest, RestPacer(), now_ms=now, seconds=0.8 * seconds)
        later = Mender(rest, RestPacer(CONFIRM_SHARE), now_ms=now, seconds=seconds)
        urgent.heal()
        later.confirm()
    return _sum(urgent.mended(), later.mended())


def gaps_heal(*, seconds: float = math.inf, now_ms: int | None = None, progress: Progress | None = None) -> Mended:
    """Heal the open gaps. Arguments and errors as of `candles_mend`."""
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        mender = Mender(rest, RestPacer(), now_ms=market_now_ms(rest) if now_ms is None else now_ms, seconds=seconds, progress=progress)
        mender.heal()
    return mender.mended()


def days_confirm(*, seconds: float = 45.0, now_ms: int | None = None) -> Mended:
    """Confirm the daily candles of the last days with the broker's own daily bars. Arguments and errors as of `candles_mend`."""
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        now = market_now_ms(rest) if now_ms is None else now_ms
        mender = Mender(rest, RestPacer(CONFIRM_SHARE), now_ms=now, seconds=seconds)
        mender.confirm_days()
    return mender.mended()


def history_backfill(
    subjects: Sequence[Subject],
    *,
    first: date,
    last: date,
    interval: str = "1m",
    again: bool = False,
    now_ms: int | None = None,
    progress: Progress | None = None,
) -> Mended:
    """Write the broker's history of some instruments, newest first; today's finished minutes too. Takes as long as the limits make it.

    Args:
        first, last: days in India, both included.
        interval: "1m" or "1d".
        again: ask also for what was asked before.
        now_ms: market time; asked for by default.

    Raises:
        BrokerError, pymongo.errors.PyMongoError: what is written stays, and is not asked for again.
    """
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        now = market_now_ms(rest) if now_ms is None else now_ms
        mender = Mender(rest, RestPacer(), now_ms=now, seconds=math.inf, progress=progress)
        mender.backfill(subjects, first, last, interval, again=again)
    return mender.mended()


class Mender:
    """One run: what it may spend, and what it has done.

    Args:
        now_ms: market time at its start, a lower bound of what it is later.
        seconds: after which it asks for nothing more.
    """

    def __init__(self, rest: UpstoxRest, pacer: RestPacer, *, now_ms: int, seconds: float, progress: Progress | None = None) -> None:
        self._rest = rest
        self._pacer = pacer
        self._now_ms = now_ms
        self._today = day_of(now_ms)
        self._deadline = time.monotonic() + seconds
        self._progress = progress
        self._calendar = calendar_read()
        self._shards = spots_read().shards
        self._auctions: dict[tuple[str, date], int | None] = {}
        self._followed: dict[tuple[int, date], dict[str, list[Stretch]]] = {}
        self._open: list[GapNotice] = []
        self._counts: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._complete = True
        self._violations = 0
        self._changed: list[Candle] = []
        self._moved: list[GapNotice] = []
        self._told_at = time.monotonic()
        self._calls_planned = 0

    def mended(self) -> Mended:
        """Return what was done so far."""
        counts = self._counts
        numbers = {name: counts[name] for name in ("calls", "candles", "missing", "odd", "empty", "healed", "impossible", "waiting")}
        return Mended(**numbers, refused=dict(self._refused), failed=dict(self._failed), complete=self._complete)

    # --- gaps -------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Heal the open gaps, the newest first. Raises as `candles_mend`."""
        self._open = self._gaps_open()
        try:
            for gap in self._open:
                if time.monotonic() > self._deadline:
                    raise OutOfTime
                self._heal(gap)
        except OutOfTime:
            self._complete = False
        finally:
            self.tell()

    def _gaps_open(self) -> list[GapNotice]:
        """Return the gaps whose last minute is final at the broker, also by a clock of its that is a little slower than ours."""
        return gaps.gaps_open(ended_before_ms=(self._now_ms - plan.SETTLE_MS - CLOCKS_MS) // MINUTE_MS * MINUTE_MS)

    def _heal(self, gap: GapNotice) -> None:
        hole = plan.minutes_around(gap.start_ms, gap.end_ms)
        if not self._days(hole):
            self._judge(gap, Gap.Heal.IMPOSSIBLE, f"the broker has no minutes from before {plan.FIRST_MINUTES:%Y-%m-%d}")
            return
        subjects, gone = self._concerned(gap, hole)
        before = self._counts["calls"]
        whole = self._whole(subjects, hole)
        asked_for = [subject for subject in subjects if subject.instrument not in whole]
        wanted = self._unsettled([(subject, hole) for subject in asked_for])
        self._calls_planned = before + len(wanted)
        try:
            self._ask_all(wanted)
        except OutOfTime:
            if self._counts["calls"] > before:
                left = {subject for subject, _ in self._unsettled([(subject, hole) for subject in asked_for])}
                self._judge(gap, Gap.Heal.OPEN, f"{len(left)} of {len(subjects)} instruments are still to be asked for")
            raise
        self._conclude(gap, hole, subjects, whole, gone, asked=self._counts["calls"] > before)

    def _whole(self, subjects: list[Subject], hole: Stretch) -> set[int]:
        """Return the instruments of which nothing is missing in a short hole, as the feed's bars came after it: most, of a reconnect."""
        if hole[1] - hole[0] > WHOLE_MS:
            return set()
        finished = minutes_final(hole)
        lengths: dict[tuple[str, bool], int] = {}
        whole = set()
        for subject in subjects:
            place = (subject.segment, subject.auctioned)
            if place not in lengths:
                lengths[place] = sum(self._trades(subject, minute_ms) for minute_ms in range(*hole, MINUTE_MS))
            if 0 < lengths[place] <= finished.get(subject.instrument, 0):
                whole.add(subject.instrument)
        return whole

    def _conclude(self, gap: GapNotice, hole: Stretch, subjects: list[Subject], whole: set[int], gone: int, *, asked: bool) -> None:
        """Judge a gap of which all was asked that can be asked now."""
        asked_for = [subject for subject in subjects if subject.instrument not in whole]
        due = [(subject, day) for subject in asked_for for day in self._days(hole) if self._is_due(subject, day, hole)]
        notes = notes_read((subject.instrument, day) for subject, day in due)
        waiting = {subject for subject, day in due if not settles(notes.get((subject.instrument, day)), day, hole)}
        refused = {note.instrument: note.refused for note in notes.values() if note.refused}
        if waiting:
            if asked:
                self._judge(gap, Gap.Heal.OPEN, f"the broker has not yet the bars of {len(waiting)} of {len(subjects)} instruments")
            return
        reasons = [f"{gone} expired: their candles need the broker's Plus plan"] if gone else []
        if refused:
            reasons.append(f"{len(refused)} refused: {next(iter(refused.values()))}")
        if whole or any(note.bars for note in notes.values()) or (subjects and not due):
            self._judge(gap, Gap.Heal.HEALED, "; ".join([gaps.filled_text(gaps.candles_filled(gap, shards=self._shards)), *reasons]))
        elif subjects and len(refused) < len(subjects):
            self._judge(gap, Gap.Heal.IMPOSSIBLE, "; ".join(["the broker has no bars of these days", *reasons]))
        else:
            self._judge(gap, Gap.Heal.IMPOSSIBLE, "; ".join(reasons) or "nobody knows an instrument that was followed then")

    def _judge(self, gap: GapNotice, state: str, detail: str) -> None:
        self._moved.append(gaps.gap_judge(gap, state, detail, shards=self._shards))
        self._counts[{Gap.Heal.HEALED: "healed", Gap.Heal.IMPOSSIBLE: "impossible"}.get(Gap.Heal(state), "waiting")] += 1
        self._tell_sometimes()

    def _concerned(self, gap: GapNotice, hole: Stretch) -> tuple[list[Subject], int]:
        """Return the instruments that a gap is of, indices and followed ones first, and how many of them are no more."""
        now = set(followed(market_now()).ids)
        if gap.instruments:
            wanted = set(gap.instruments)
        else:
            wanted = {instrument for instrument in instruments_around(hole, self._days(hole)) | now if self._is_of(instrument, gap)}
        subjects = sorted(subjects_read(wanted, now), key=lambda subject: (not subject.is_index, not subject.followed, subject.instrument))
        return subjects, len(wanted) - len(subjects)

    def _is_of(self, instrument: int, gap: GapNotice) -> bool:
        """Whether an instrument is of a gap's feed; of one that has been given up since, whoever has its place now."""
        return instrument % self._shards == gap.shard % self._shards

    def _holes_of(self, subject: Subject) -> list[Stretch]:
        """Return the open gaps that an instrument is concerned by, as whole minutes."""
        return [
            plan.minutes_around(gap.start_ms, gap.end_ms)
            for gap in self._open
            if (subject.instrument in gap.instruments if gap.instruments else self._is_of(subject.instrument, gap))
        ]

    # --- what the feed's bars did not confirm -----------------------------------------------------------------------------

    def confirm(self) -> None:
        """Confirm minutes that ticks alone have made, the oldest first, then compare days that are over. Raises as `candles_mend`."""
        try:
            self._open = self._gaps_open()
            self._confirm_recent()
            for day in (self._today - timedelta(days=back) for back in range(AUDIT_DAYS)):
                self._audit(day)
        except OutOfTime:
            self._complete = False
        finally:
            self.tell()

    def _confirm_recent(self) -> None:
        last = (self._now_ms - CONFIRM_AFTER_MS) // MINUTE_MS * MINUTE_MS
        within = {"n": "1m", "t": {"$gte": DatetimeMS(last - CONFIRM_BACK_MS), "$lt": DatetimeMS(last)}, "s": "closed"}
        group = {"_id": "$i", "first": {"$min": "$t"}, "last": {"$max": "$t"}}
        rows = store.candles_collection().aggregate([{"$match": within}, {"$group": group}])
        spans = {int(row["_id"]): (store.time_ms(row["first"]), store.time_ms(row["last"]) + MINUTE_MS) for row in rows}
        subjects = sorted(subjects_read(spans, ()), key=lambda subject: spans[subject.instrument])
        self._ask_all(self._unsettled([(subject, spans[subject.instrument]) for subject in subjects]))

    def _audit(self, day: date) -> None:
        """Compare a day with the broker's, of each instrument whose trading is over."""
        is_today = day == self._today
        if not is_today and self._now_ms < day_ms(day) + DAY_MS + plan.MORNING_MS:
            return
        over_ms = self._now_ms - (AUDIT_AFTER_MS if is_today else 0)
        sessions = [(subject, self._session(subject, day)) for subject in subjects_read(instruments_of(day), ())]
        self._ask_all(self._unsettled([(subject, session) for subject, session in sessions if session[0] < session[1] <= over_ms]))

    def _session(self, subject: Subject, day: date) -> Stretch:
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

    # --- asking -----------------------------------------------------------------------------------------------------------

    def _unsettled(self, wanted: Sequence[tuple[Subject, Stretch]]) -> list[tuple[Subject, tuple[date, date]]]:
        """Return the calls to be made for stretches of instruments: today's first, then earlier days by months; each in the given order."""
        notes = notes_read((subject.instrument, day) for subject, stretch in wanted for day in self._days(stretch))
        recently = datetime.now(UTC) - timedelta(seconds=ASK_AGAIN_SECONDS)
        today: list[tuple[Subject, tuple[date, date]]] = []
        earlier: list[tuple[Subject, tuple[date, date]]] = []
        for subject, stretch in wanted:
            open_days = []
            for day in self._days(stretch):
                note = notes.get((subject.instrument, day))
                in_vain = note is not None and store.time_ms(note.until) == day_ms(day) and note.fetched_at > recently
                if self._is_due(subject, day, stretch) and not settles(note, day, stretch) and not in_vain:
                    open_days.append(day)
            today += [(subject, (day, day)) for day in open_days if day == self._today]
            earlier += [(subject, span) for span in plan.month_spans(day for day in open_days if day != self._today)]
        return today + earlier

    def _days(self, stretch: Stretch) -> list[date]:
        """Return the days of a stretch that the broker may have, newest first."""
        return [day for day in plan.days_within(stretch) if plan.FIRST_MINUTES <= day <= self._today]

    def _is_due(self, subject: Subject, day: date, stretch: Stretch) -> bool:
        """Whether the instrument may have traded in the stretch's part of that day: yes where nobody knows."""
        opens, closes = self._session(subject, day)
        return max(stretch[0], opens) < min(stretch[1], closes)

    def _ask_all(self, calls: Iterable[tuple[Subject, tuple[date, date]]]) -> None:
        for subject, (first, last) in calls:
            self._ask(subject, first, last)

    def _ask(self, subject: Subject, first: date, last: date, *, whole: bool = False) -> None:
        """Ask for the minutes of some days that follow on each other, and write what they mend."""
        days = [last - timedelta(days=back) for back in range((last - first).days + 1)]
        call = partial(self._rest.historical_bars, subject.key, "minutes", 1, first=first, last=last)
        if last >= self._today:
            call = partial(self._rest.intraday_bars, subject.key, "minutes", 1)
        answer = self._fetch(subject, days, call)
        if answer is None:
            return
        self._now_ms = min(self._now_ms, self._rest.answered_ms or self._now_ms)  # our clock may be fast
        stored = {candle.start_ms: candle for candle in minutes_stored(subject, first, last)}
        result = plan.sort_out(
            subject,
            answer.bars,
            set(days),
            states={start: candle.state for start, candle in stored.items()},
            holes=self._holes_of(subject),
            now_ms=self._now_ms,
            trades=lambda minute_ms: self._trades(subject, minute_ms),
            followed=lambda minute_ms: self._follows(subject, minute_ms),
            whole=whole,
        )
        self._counts["odd"] += answer.odd + result.odd
        self._write(subject, result, stored)
        self._note(subject, days, answer.bars, whole=whole)

    def _trades(self, subject: Subject, minute_ms: int) -> bool:
        opens, closes = self._session(subject, day_of(minute_ms))
        return opens <= minute_ms < closes

    def _follows(self, subject: Subject, minute_ms: int) -> bool:
        """Whether the feed followed an instrument throughout a minute, as far as that is recorded."""
        place = (subject.instrument % self._shards, day_of(minute_ms))
        if place not in self._followed:
            self._followed[place] = followed_read(place[1], shard=place[0], shards=self._shards)
        stretches = self._followed[place].get(subject.key, ())
        return any(start <= minute_ms and minute_ms + MINUTE_MS <= end for start, end in stretches)

    def _fetch(self, subject: Subject, days: Sequence[date], call: Callable[[], Bars], *, daily: bool = False) -> Bars | None:
        """Make one call when the limits allow it. None: there is no answer, for good (which is noted) or for now.

        Raises:
            OutOfTime: before that.
            BrokerError: no other call would fare better now.
        """
        while True:
            if not self._pacer.acquire(self._deadline - time.monotonic()):
                raise OutOfTime
            self._counts["calls"] += 1
            if self._progress is not None:
                self._progress(self._counts["calls"], max(self._calls_planned, self._counts["calls"]), subject.key)
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
                self._note(subject, days, (), daily=daily, refused=str(error))
                return None

    # --- writing ----------------------------------------------------------------------------------------------------------

    def _write(self, subject: Subject, result: Sorted, stored: dict[int, Candle]) -> None:
        """Write minutes, roll up what they touch, record what was missing."""
        if not result.candles:
            return
        built = {
            candle_id(subject.instrument, "1m", candle.start_ms): (old.open, old.high, old.low, old.close, float(old.volume))
            for candle in result.candles
            if candle.state == "confirmed" and (old := stored.get(candle.start_ms)) is not None
        }
        self._counts["candles"] += store.candles_write(result.candles, built)
        self._changed += roll_up.candles_roll_up_minutes({(subject.instrument, candle.start_ms) for candle in result.candles})
        starts = {candle.start_ms for candle in result.candles}
        first, last = day_of(min(starts)), day_of(max(starts))
        self._changed += [
            candle for candle in minutes_stored(subject, first, last) if candle.start_ms in starts and candle != stored.get(candle.start_ms)
        ]
        shard = subject.instrument % self._shards
        for start_ms, end_ms in result.missing:
            self._counts["missing"] += (end_ms - start_ms) // MINUTE_MS
            self._moved.append(gaps.gap_missing_record(shard=shard, start_ms=start_ms, end_ms=end_ms, instruments=[subject.instrument]))
        self._tell_sometimes()

    def _note(
        self, subject: Subject, days: Iterable[date], bars: Sequence[Bar], *, whole: bool = False, daily: bool = False, refused: str = ""
    ) -> None:
        """Note what was answered of each day, now that it is written."""
        found = Counter(day_of(bar.start_ms) for bar in bars)
        for day in days:
            final = note_write(subject, day, bars=found[day], now_ms=self._now_ms, whole=whole, daily=daily, refused=refused)
            self._counts["empty"] += final and not found[day] and not refused

    def _tell_sometimes(self) -> None:
        if len(self._changed) >= NOTICE_CANDLES or time.monotonic() - self._told_at > TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Tell every hub what has changed. What is not heard is lost: whoever asks REST has it."""
        while self._changed or self._moved:
            notice = bus.Notice(self._changed[:NOTICE_CANDLES], self._moved)
            del self._changed[:NOTICE_CANDLES]
            self._moved = []
            try:
                async_to_sync(bus.publish_notice_once)(notice)
            except bus.Unavailable as error:
                self._changed.clear()
                log.warning("backfill: clients are not told of %d candles and %d gaps: %s", len(notice.candles), len(notice.gaps), error)
        self._told_at = time.monotonic()

    # --- days -------------------------------------------------------------------------------------------------------------

    def confirm_days(self) -> None:
        """Confirm daily candles of the last days that the broker has not confirmed, once a day. Raises as `candles_mend`."""
        if self._now_ms < day_ms(self._today) + plan.MORNING_MS:
            return
        first, last = self._today - timedelta(days=DAILY_DAYS), self._today - timedelta(days=1)
        within = {"n": "1d", "t": {"$gte": DatetimeMS(day_ms(first)), "$lte": DatetimeMS(day_ms(last))}, "f": {"$ne": True}}
        subjects = subjects_read({int(row["i"]) for row in store.candles_collection().find(within, {"i": 1})}, ())
        asked = notes_read(((subject.instrument, self._today) for subject in subjects), daily=True)
        try:
            for subject in subjects:
                if (subject.instrument, self._today) not in asked and self._ask_days(subject, first, last):
                    self._note(subject, [self._today], (), daily=True)
        except OutOfTime:
            self._complete = False
        finally:
            self.tell()

    def _ask_days(self, subject: Subject, first: date, last: date) -> bool:
        """Ask for daily bars and write them; say whether there was an answer."""
        days = {first + timedelta(days=forth) for forth in range((last - first).days + 1)}
        call = partial(self._rest.historical_bars, subject.key, "days", 1, first=first, last=last)
        answer = self._fetch(subject, [self._today], call, daily=True)
        if answer is None:
            return False
        bars, odd = plan.usable(answer.bars, days, length_ms=DAY_MS)
        self._counts["odd"] += answer.odd + odd
        read = partial(store.candles_read, subject.instrument, "1d", from_ms=day_ms(first), to_ms=day_ms(last) + DAY_MS, limit=len(days))
        before = set(read())
        self._counts["candles"] += roll_up.daily_confirm([plan.candle_of(subject, bar, "1d", "confirmed") for bar in bars])
        self._changed += [candle for candle in read() if candle not in before]
        self._tell_sometimes()
        return True

    # --- history ----------------------------------------------------------------------------------------------------------

    def backfill(self, subjects: Sequence[Subject], first: date, last: date, interval: str, *, again: bool) -> None:
        """Write history. Raises as `history_backfill`."""
        try:
            if interval == "1d":
                spans = list(plan.decade_spans(first, min(last, self._today - timedelta(days=1))))
                self._calls_planned = len(subjects) * len(spans)
                for subject in subjects:
                    for begin, end in spans:
                        self._ask_days(subject, begin, end)
                return
            calls = [(subject, span) for subject in subjects for span in self._history_spans(subject, first, last, again=again)]
            self._calls_planned = len(calls)
            for subject, (begin, end) in calls:
                self._ask(subject, begin, end, whole=True)
        finally:
            self.tell()

    def _history_spans(self, subject: Subject, first: date, last: date, *, again: bool) -> list[tuple[date, date]]:
        days = [first + timedelta(days=forth) for forth in range((min(last, self._today) - first).days + 1)]
        notes = {} if again else notes_read((subject.instrument, day) for day in days)
        open_days = [day for day in days if (note := notes.get((subject.instrument, day))) is None or not (note.whole or note.refused)]
        past = plan.month_spans(day for day in open_days if day != self._today)
        return ([(self._today, self._today)] if self._today in open_days else []) + past


def _sum(first: Mended, second: Mended) -> Mended:
    numbers = {
        name: getattr(first, name) + getattr(second, name) for name in Mended._fields if name not in ("refused", "failed", "complete")
    }
    return Mended(
        **numbers,
        refused=first.refused | second.refused,
        failed=first.failed | second.failed,
        complete=first.complete and second.complete,
    )
