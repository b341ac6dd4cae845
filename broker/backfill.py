"""Mends the stored candles from the broker's REST: holes, minutes that only ticks have made, days, and history from before the feed.

A run goes gap by gap, the newest first. Each is healed, or impossible and says why, or stays open and says what it waits for. How it asks
and writes, and what it never does: `broker.mending_run`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import date, timedelta

from bson.datetime_ms import DatetimeMS
from django.conf import settings

from broker import backfill_plan as plan
from broker.backfill_plan import Stretch, Subject, day_ms
from broker.candle_fetches import instruments_around, instruments_of, minutes_final, notes_read, settles, subjects_read
from broker.mending_run import Mended, MendingRun, OutOfTime, Progress
from broker.rest_pacing import RestPacer
from broker.sessions import token_current
from broker.upstox.rest import UpstoxRest
from instruments.selectors import followed, market_now
from marketdata import gaps, live_state, store
from marketdata.domain.candle import DAY_MS, MINUTE_MS
from marketdata.domain.gap import GapNotice
from marketdata.models import Gap

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
    """What one run is for. Arguments as of `MendingRun`."""

    def __init__(self, rest: UpstoxRest, pacer: RestPacer, *, now_ms: int, seconds: float, progress: Progress | None = None) -> None:
        self._run = MendingRun(rest, pacer, now_ms=now_ms, seconds=seconds, progress=progress)

    def mended(self) -> Mended:
        """Return what was done so far."""
        return self._run.mended()

    # --- gaps ---------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Heal the open gaps, the newest first. Raises as `candles_mend`."""
        try:
            for gap in self._gaps_final():
                if self._run.is_out_of_time:
                    raise OutOfTime
                self._heal(gap)
        except OutOfTime:
            self._run.complete = False
        finally:
            self._run.tell()

    def _gaps_final(self) -> list[GapNotice]:
        """Return the open gaps whose last minute is final at the broker, also by a clock of its that is a little slower than ours."""
        return gaps.gaps_open(ended_before_ms=(self._run.now_ms - plan.SETTLE_MS - CLOCKS_MS) // MINUTE_MS * MINUTE_MS)

    def _heal(self, gap: GapNotice) -> None:
        hole = plan.minutes_around(gap.start_ms, gap.end_ms)
        if not self._run.days(hole):
            self._judge(gap, Gap.Heal.IMPOSSIBLE, f"the broker has no minutes from before {plan.FIRST_MINUTES:%Y-%m-%d}")
            return
        subjects, gone = self._concerned(gap, hole)
        before = self._run.counts["calls"]
        whole = self._whole(subjects, hole)
        asked_for = [subject for subject in subjects if subject.instrument not in whole]
        wanted = self._run.unsettled([(subject, hole) for subject in asked_for])
        self._run.calls_planned = before + len(wanted)
        try:
            self._run.ask_all(wanted)
        except OutOfTime:
            if self._run.counts["calls"] > before:
                left = {subject for subject, _ in self._run.unsettled([(subject, hole) for subject in asked_for])}
                self._judge(gap, Gap.Heal.OPEN, f"{len(left)} of {len(subjects)} instruments are still to be asked for")
            raise
        self._conclude(gap, hole, subjects, whole, gone, asked=self._run.counts["calls"] > before)

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
                lengths[place] = sum(self._run.trades(subject, minute_ms) for minute_ms in range(*hole, MINUTE_MS))
            if 0 < lengths[place] <= finished.get(subject.instrument, 0):
                whole.add(subject.instrument)
        return whole

    def _conclude(self, gap: GapNotice, hole: Stretch, subjects: list[Subject], whole: set[int], gone: int, *, asked: bool) -> None:
        """Judge a gap of which all was asked that can be asked now."""
        asked_for = [subject for subject in subjects if subject.instrument not in whole]
        due = [(subject, day) for subject in asked_for for day in self._run.days(hole) if self._run.is_due(subject, day, hole)]
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
            self._judge(gap, Gap.Heal.HEALED, "; ".join([gaps.filled_text(gaps.candles_filled(gap, shards=self._run.shards)), *reasons]))
        elif subjects and len(refused) < len(subjects):
            self._judge(gap, Gap.Heal.IMPOSSIBLE, "; ".join(["the broker has no bars of these days", *reasons]))
        else:
            self._judge(gap, Gap.Heal.IMPOSSIBLE, "; ".join(reasons) or "nobody knows an instrument that was followed then")

    def _judge(self, gap: GapNotice, state: str, detail: str) -> None:
        self._run.moved.append(gaps.gap_judge(gap, state, detail, shards=self._run.shards))
        self._run.counts[{Gap.Heal.HEALED: "healed", Gap.Heal.IMPOSSIBLE: "impossible"}.get(Gap.Heal(state), "waiting")] += 1
        self._run.tell_sometimes()

    def _concerned(self, gap: GapNotice, hole: Stretch) -> tuple[list[Subject], int]:
        """Return the instruments that a gap is of, indices and followed ones first, and how many of them are no more."""
        now = set(followed(market_now()).ids)
        if gap.instruments:
            wanted = set(gap.instruments)
        else:
            wanted = {instrument for instrument in instruments_around(hole, self._run.days(hole)) | now if self._run.is_of(instrument, gap)}
        subjects = sorted(subjects_read(wanted, now), key=lambda subject: (not subject.is_index, not subject.followed, subject.instrument))
        return subjects, len(wanted) - len(subjects)

    # --- what the feed's bars did not confirm -------------------------------------------------------------------------

    def confirm(self) -> None:
        """Confirm minutes that ticks alone have made, the oldest first, then compare days that are over. Raises as `candles_mend`."""
        try:
            self._confirm_recent()
            for day in (self._run.today - timedelta(days=back) for back in range(AUDIT_DAYS)):
                self._audit(day)
        except OutOfTime:
            self._run.complete = False
        finally:
            self._run.tell()

    def _confirm_recent(self) -> None:
        last = (self._run.now_ms - CONFIRM_AFTER_MS) // MINUTE_MS * MINUTE_MS
        within = {"n": "1m", "t": {"$gte": DatetimeMS(last - CONFIRM_BACK_MS), "$lt": DatetimeMS(last)}, "s": "closed"}
        group = {"_id": "$i", "first": {"$min": "$t"}, "last": {"$max": "$t"}}
        rows = store.candles_collection().aggregate([{"$match": within}, {"$group": group}])
        spans = {int(row["_id"]): (store.time_ms(row["first"]), store.time_ms(row["last"]) + MINUTE_MS) for row in rows}
        subjects = sorted(subjects_read(spans, ()), key=lambda subject: spans[subject.instrument])
        self._run.ask_all(self._run.unsettled([(subject, spans[subject.instrument]) for subject in subjects]))

    def _audit(self, day: date) -> None:
        """Compare a day with the broker's, of each instrument whose trading is over."""
        is_today = day == self._run.today
        if not is_today and self._run.now_ms < day_ms(day) + DAY_MS + plan.MORNING_MS:
            return
        over_ms = self._run.now_ms - (AUDIT_AFTER_MS if is_today else 0)
        sessions = [(subject, self._run.session(subject, day)) for subject in subjects_read(instruments_of(day), ())]
        over = [(subject, session) for subject, session in sessions if session[0] < session[1] <= over_ms]
        self._run.ask_all(self._run.unsettled(over))

    # --- days and history ---------------------------------------------------------------------------------------------

    def confirm_days(self) -> None:
        """Confirm daily candles of the last days that the broker has not confirmed, once a day. Raises as `candles_mend`."""
        if self._run.now_ms < day_ms(self._run.today) + plan.MORNING_MS:
            return
        first, last = self._run.today - timedelta(days=DAILY_DAYS), self._run.today - timedelta(days=1)
        within = {"n": "1d", "t": {"$gte": DatetimeMS(day_ms(first)), "$lte": DatetimeMS(day_ms(last))}, "f": {"$ne": True}}
        subjects = subjects_read({int(row["i"]) for row in store.candles_collection().find(within, {"i": 1})}, ())
        asked = notes_read(((subject.instrument, self._run.today) for subject in subjects), daily=True)
        try:
            for subject in subjects:
                if (subject.instrument, self._run.today) not in asked and self._run.ask_days(subject, first, last):
                    self._run.note(subject, [self._run.today], (), daily=True)
        except OutOfTime:
            self._run.complete = False
        finally:
            self._run.tell()

    def backfill(self, subjects: Sequence[Subject], first: date, last: date, interval: str, *, again: bool) -> None:
        """Write history. Raises as `history_backfill`."""
        try:
            if interval == "1d":
                spans = list(plan.decade_spans(first, min(last, self._run.today - timedelta(days=1))))
                self._run.calls_planned = len(subjects) * len(spans)
                for subject in subjects:
                    for begin, end in spans:
                        self._run.ask_days(subject, begin, end)
                return
            calls = [(subject, span) for subject in subjects for span in self._history_spans(subject, first, last, again=again)]
            self._run.calls_planned = len(calls)
            for subject, (begin, end) in calls:
                self._run.ask(subject, begin, end, whole=True)
        finally:
            self._run.tell()

    def _history_spans(self, subject: Subject, first: date, last: date, *, again: bool) -> list[tuple[date, date]]:
        days = [first + timedelta(days=forth) for forth in range((min(last, self._run.today) - first).days + 1)]
        notes = {} if again else notes_read((subject.instrument, day) for day in days)
        open_days = [day for day in days if (note := notes.get((subject.instrument, day))) is None or not (note.whole or note.refused)]
        past = plan.month_spans(day for day in open_days if day != self._run.today)
        return ([(self._run.today, self._run.today)] if self._run.today in open_days else []) + past


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
