"""The holes between connections, each kept until the store has it as one Gap: over an absent MongoDB, over a crash.

A hole lies in a small file beside the journal from the moment that the connection is lost; it becomes a Gap when data comes again,
and leaves the file when the store has it. A Gap is named by shard and start, so saving it twice changes nothing. A hole in which no
followed segment traded (a night, a weekend, a holiday) is none: nobody missed anything. A segment traded in a hole if one of these says so:

    the statuses          it traded when the hole began or ended, or began to trade in it, as another feed or REST has recorded
    the calendar          a planned session of it begins or ends in the hole; or the hole lies in one, and no status is known
    neither knows         of a weekday whose hours are not known the hole holds the usual open, and at its end the market is closed:
                          the whole session may lie in it (a holiday so gives a Gap too many: better than a session that nobody misses)
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from broker.liveness import TRADING
from marketdata.calendar import calendar_read
from marketdata.domain.candle import DAY_MS, day_start_ms
from marketdata.domain.session import Calendar
from marketdata.models import Gap, MarketStatus

log = logging.getLogger(__name__)

MOST_UNSAVED = 1000
"""Holes that may wait for the store; past it the oldest is dropped and counted."""


class Hole(msgspec.Struct):
    """A stretch without a connection.

    Attributes:
        start_ms, end_ms: our clock, ms UTC; `end_ms` 0 while nothing has come again.
        cause: of Gap.Cause.
        detail: how the connection ended, in a sentence.
        traded: whether a followed segment traded at its start or its end; None where its start is not known to us.
        segments: followed at its end.
    """

    start_ms: int
    end_ms: int
    cause: str
    detail: str
    traded: bool | None
    segments: list[str]


_decode = msgspec.json.Decoder(list[Hole]).decode


class Holes:
    """The holes of one shard; at most one is open.

    Attributes:
        open: the one that data has not ended yet.
        waiting: ended, and not in the store yet; oldest first.
        counts: `gaps_total` (in the store), `holes_idle_total` (nothing traded: no gap), `gaps_dropped_total`.
    """

    def __init__(self, file: Path, *, shard: int) -> None:
        self.open: Hole | None = None
        self.waiting: list[Hole] = []
        self.counts: Counter[str] = Counter(gaps_total=0, holes_idle_total=0, gaps_dropped_total=0)
        self._file = file
        self._shard = shard

    def load(self, last_ms: int) -> None:
        """Take over what an earlier run left.

        Args:
            last_ms: when that run's journal ends, ms UTC; 0 where there was none. That begins a hole unless one was open.
        """
        try:
            self.waiting = _decode(self._file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # ValueError: msgspec's, and invalid UTF-8's
            log.error("feed: %s cannot be read, the holes that it held are lost: %s", self._file.name, error)
        if self.waiting and not self.waiting[-1].end_ms:
            self.open = self.waiting.pop()
        elif last_ms:
            self.open = Hole(last_ms, 0, Gap.Cause.STOPPED, "", None, [])
            self._keep()  # this run's journal moves on, and a further one that gets no data would begin the hole there

    def begin(self, start_ms: int, detail: str, *, traded: bool) -> None:
        """The connection is lost; nothing changes when it was already."""
        if self.open is None:
            self.open = Hole(start_ms, 0, Gap.Cause.DISCONNECTED, detail[:200], traded, [])
            self._keep()

    def end(self, end_ms: int, *, segments: Collection[str], traded: bool) -> None:
        """Data comes again.

        Args:
            end_ms: our clock, ms UTC.
            segments: those that are followed.
            traded: whether one of them trades now.
        """
        if self.open is None:
            return
        hole, self.open = self.open, None
        hole.end_ms, hole.segments = max(end_ms, hole.start_ms), sorted(segments)
        hole.traded = True if traded else hole.traded
        self._wait(hole)

    def silence(self, start_ms: int, end_ms: int, segments: Collection[str]) -> None:
        """A stretch of session is over in which a living connection gave nothing; it is a gap whatever the connection says.

        Args:
            start_ms, end_ms: market time, ms UTC.
            segments: those that are followed.
        """
        self._wait(Hole(start_ms, end_ms, Gap.Cause.SILENT, "", True, sorted(segments)))

    def _wait(self, hole: Hole) -> None:
        """Let an ended hole wait for the store."""
        self.waiting.append(hole)
        if len(self.waiting) > MOST_UNSAVED:
            del self.waiting[0]
            self.counts["gaps_dropped_total"] += 1
        self._keep()

    def saved(self, hole: Hole, *, is_gap: bool) -> None:
        """The store knows of a hole that waited."""
        if hole in self.waiting:
            self.waiting.remove(hole)
        self.counts["gaps_total" if is_gap else "holes_idle_total"] += 1
        self._keep()

    def _keep(self) -> None:
        """Write the file anew; where the disk does not take it, memory alone has the holes."""
        held = [*self.waiting, *([self.open] if self.open else [])]
        temporary = self._file.with_suffix(".tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(held))
            os.replace(temporary, self._file)
        except OSError as error:
            log.error("feed: %s cannot be written: %s", self._file.name, error)


def gap_record(hole: Hole, shard: int) -> bool:
    """Bring an ended hole into the store, as often as wanted; say whether it is a gap. Blocks.

    Raises:
        pymongo.errors.PyMongoError, django.db.DatabaseError: worth a retry.
    """
    calendar = calendar_read()
    if not (hole.traded or holds_session(calendar, hole) or _traded_meanwhile(calendar, hole)):
        return False
    Gap.objects.exclude(cause=Gap.Cause.MISSING).get_or_create(
        shard=shard,
        start=_moment(hole.start_ms),
        defaults={"end": _moment(hole.end_ms), "cause": hole.cause, "detail": hole.detail},
    )
    return True


def _traded_meanwhile(calendar: Calendar, hole: Hole) -> bool:
    """Whether a followed segment began to trade within a hole, or traded before it where we do not know that otherwise: by its last
    status, without one by the calendar."""
    start, end = _moment(hole.start_ms), _moment(hole.end_ms)
    rows = MarketStatus.objects.filter(segment__in=hole.segments)
    if rows.filter(status=TRADING, since__gt=start, since__lte=end).exists():
        return True
    if hole.traded is not None:
        return False
    last = {segment: rows.filter(segment=segment, since__lte=start).order_by("-since").first() for segment in hole.segments}
    return any(
        calendar.trades_within(segment, hole.start_ms, hole.end_ms) if row is None else row.status == TRADING
        for segment, row in last.items()
    )


def holds_session(calendar: Calendar, hole: Hole) -> bool:
    """Whether a planned session of a followed segment begins or ends in a hole, or, where nothing is planned, perhaps lies in it."""
    days = range(day_start_ms(hole.start_ms), hole.end_ms, DAY_MS)
    return any(_holds_session_of(calendar, segment, day_ms, hole) for segment in hole.segments for day_ms in days)


def _holds_session_of(calendar: Calendar, segment: str, day_ms: int, hole: Hole) -> bool:
    hours = calendar.hours(segment, day_ms)
    if hours is None:
        open_ms = day_ms + calendar.anchors(segment).of(day_ms)
        return hole.start_ms <= open_ms < hole.end_ms and _moment(open_ms).weekday() < 5
    return hours.trades and (hole.start_ms <= hours.open_ms < hole.end_ms or hole.start_ms < hours.close_ms <= hole.end_ms)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
