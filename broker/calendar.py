"""The exchanges' calendar, from the broker's timings and holidays into MarketSession.

A beat task refreshes it a few times a day. The feed does not wait for beat, and a replay needs the days of its own time: each minute, and
when the market's day changes, it asks (in a thread):

    calendar, failure = calendar_ensure(self.pipeline.market_ms, api_url=self.config.api_url)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import Error as DjangoError
from django.db import connections
from pymongo.errors import PyMongoError

from broker.rest_pacing import RestPacer
from broker.sessions import token_current
from broker.upstox.protocol import BrokerError, FeedRefused, ProtocolViolation, RateLimited
from broker.upstox.rest import UpstoxRest
from marketdata import live_state
from marketdata.calendar import calendar_read, sessions_record
from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, day_start_ms
from marketdata.domain.session import EXCHANGES, Calendar, Hours

log = logging.getLogger(__name__)

DAYS_BACK, DAYS_AHEAD = 7, 14
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 45.0, 360.0
"""After a failure `calendar_ensure` asks the broker again so much later, doubled with each further one: 23 calls each 45 s would take
half of the broker's limits from everybody else."""
PACE_SECONDS = 20.0
"""Longest wait for a call's turn among the broker's limits."""
CLOSED = "TRADING_HOLIDAY"


class _Fetched:
    """What this process has fetched for its feed: rows of other processes may be of another exchange, or of a market that never closed."""

    def __init__(self) -> None:
        self.days: set[int] = set()
        self.failure: Exception | None = None
        self.failures = 0
        self.ask_again_at = 0.0
        self.thread: threading.Thread | None = None


_fetched = _Fetched()


def calendar_refresh(market_ms: int = 0, *, api_url: str = "") -> int:
    """Fetch the hours of the days around the market's own, and the year's holidays. About 23 calls; what was fetched is kept.

    Args:
        market_ms: a moment of the market's day, ms UTC; by default the newest one of the feeds, without a feed our clock.
        api_url: the broker's REST address; by default that of the settings.

    Returns:
        How many sessions were new or other than before.

    Raises:
        BrokerError: worth a retry unless `permanent`. pymongo.errors.PyMongoError: worth a retry.
    """
    day = day_start_ms(market_ms or market_now_ms())
    ahead = range(day, day + DAYS_AHEAD * DAY_MS + 1, DAY_MS)
    back = range(day - DAY_MS, day - DAYS_BACK * DAY_MS - 1, -DAY_MS)
    pacer = RestPacer()
    with UpstoxRest(api_url or settings.UPSTOX_API_URL, token_current().token) as rest:
        _take_turn(pacer)
        holidays = rest.holidays()
        names = {str(row.get("date")): str(row.get("description") or "") for row in holidays}
        fetched = {*ahead, *back}
        changed = sessions_record(hours for hours in _planned(holidays) if hours.day_ms not in fetched)
        years = {name[:4] for name in names}
        for day_ms in (*ahead, *back):  # today first: the rest may fail
            _take_turn(pacer)
            when = _date(day_ms)
            try:
                sessions = rest.timings(when)
            except FeedRefused as error:
                if day_ms == day or not error.permanent:
                    raise
                log.warning("the broker does not tell its timings of %s: %s", when, error)
                continue
            if not sessions and when.weekday() < 5 and f"{when.year}" not in years:  # of another year: a replay, or the end of December
                _take_turn(pacer)
                names |= {when.isoformat(): str(row.get("description") or "") for row in rest.holidays(when)}
            if not sessions and day_ms > day and when.weekday() < 5 and when.isoformat() not in names:
                continue  # the broker does not know yet; that is no day without trading
            changed += sessions_record(_timed(day_ms, sessions, names.get(when.isoformat(), "")))
    return changed


def calendar_ensure(market_ms: int, *, api_url: str = "", seconds: float = 4.0) -> tuple[Calendar, Exception | None]:
    """Return the calendar, and see to it that this process fetches the market's day once. Call it as often as wanted.

    The broker is asked in a thread of its own, which nobody has to wait for, and after a failure not again for RETRY_SECONDS.

    Args:
        market_ms: the market's own time, ms UTC; 0: nothing is fetched.
        api_url: as in `calendar_refresh`.
        seconds: wait so long for what is under way.

    Returns:
        All days that are known, and why the market's day could not be fetched; None where it was, or is being fetched.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    now = time.monotonic()
    under_way = _fetched.thread
    if under_way is None and market_ms and day_start_ms(market_ms) not in _fetched.days and now >= _fetched.ask_again_at:
        _fetched.ask_again_at = now + min(RETRY_SECONDS * 2**_fetched.failures, LONGEST_RETRY_SECONDS)
        under_way = _fetched.thread = threading.Thread(target=_fetch, args=(market_ms, api_url), name="calendar", daemon=True)
        under_way.start()
    if under_way is not None:
        under_way.join(seconds)
    return calendar_read(), _fetched.failure


def _fetch(market_ms: int, api_url: str) -> None:
    try:
        calendar_refresh(market_ms, api_url=api_url)
        day = day_start_ms(market_ms)
        _fetched.days.update(range(day - DAYS_BACK * DAY_MS, day + 1, DAY_MS))  # of later ones more will be known when they come
        _fetched.failure, _fetched.failures, _fetched.ask_again_at = None, 0, 0.0
    except (BrokerError, PyMongoError, DjangoError) as error:
        _fetched.failure, _fetched.failures = error, min(_fetched.failures + 1, 10)
    finally:
        _fetched.thread = None
        connections.close_all()  # this thread's own


def market_now_ms() -> int:
    """Return the market's own time: of the feed's newest frame, where a feed runs, else our clock's."""
    try:
        newest = max((status.data_ms for status in live_state.statuses_read()), default=0)
    except live_state.Unavailable:
        newest = 0
    return newest or time.time_ns() // 1_000_000


def _take_turn(pacer: RestPacer) -> None:
    if not pacer.acquire(PACE_SECONDS):
        raise RateLimited(f"no call to the broker could be made within {PACE_SECONDS:.0f} s: its limits are used up")


def _planned(holidays: list[dict[str, Any]]) -> Iterator[Hours]:
    """Give what the year's list says of whole days: who is closed, and who has hours of its own."""
    for row in holidays:
        try:
            day_ms = _day_ms(date.fromisoformat(row["date"]))
            closed = row["closed_exchanges"] if row["holiday_type"] == CLOSED else []
            name = str(row.get("description") or "")
            yield from (Hours(str(exchange), day_ms, 0, 0, name) for exchange in closed)
            yield from (_session(day_ms, session, name) for session in row.get("open_exchanges") or ())
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolViolation(f"the broker's holidays have a row that is none: {row!r:.100}") from error


def _timed(day_ms: int, sessions: list[dict[str, Any]], name: str) -> list[Hours]:
    """Return the day's hours; an exchange without a session has a day without trading."""
    try:
        trading: dict[str, Hours] = {}
        for hours in (_session(day_ms, session, name) for session in sessions):
            other = trading.get(hours.exchange, hours)  # a drill has two sessions on one day: nothing of either may be lost
            trading[hours.exchange] = hours._replace(
                open_ms=min(hours.open_ms, other.open_ms), close_ms=max(hours.close_ms, other.close_ms)
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"the broker's timings of {_date(day_ms)} have a row that is none") from error
    closed = {*EXCHANGES.values()} - trading.keys()
    return [*trading.values()] + [Hours(exchange, day_ms, 0, 0, name) for exchange in sorted(closed)]


def _session(day_ms: int, session: dict[str, Any], name: str) -> Hours:
    start, end = int(session["start_time"]), int(session["end_time"])
    if not day_ms <= start < end <= day_ms + DAY_MS:
        raise ValueError("a session outside its day")
    return Hours(str(session["exchange"]), day_ms, start, end, name)


def _date(day_ms: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=day_ms + IST_OFFSET_MS)).date()


def _day_ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS - IST_OFFSET_MS
