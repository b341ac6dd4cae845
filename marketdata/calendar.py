"""The calendar in MongoDB: each exchange's hours of each known day, as the broker told them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, ReplaceOne
from pymongo.errors import PyMongoError

from instruments.domain.instrument import IST
from marketdata import store
from marketdata.domain.candle import IST_OFFSET_MS
from marketdata.domain.session import Calendar, Hours
from marketdata.models import MarketSession

CACHE_SECONDS = 10.0
"""How old a process's copy may be. What the process itself records it sees at once."""
DESCRIPTION_LENGTH = 120

_cached: tuple[float, Calendar] | None = None


def calendar_read() -> Calendar:
    """Return all days that are known (about 3,000 rows a year), at most CACHE_SECONDS old. May block: not on an event loop.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    global _cached
    now = time.monotonic()
    if _cached is None or now - _cached[0] > CACHE_SECONDS:
        rows = store.collection(MarketSession._meta.db_table).find({}).sort([("day", ASCENDING), ("exchange", ASCENDING)])  # by its index
        _cached = (now, Calendar(map(_hours, rows)))
    return _cached[1]


def trading_end_known(segment: str, day: date) -> int | None:
    """Return when a segment's trading ends on a day (IST) · ms UTC; None where the calendar cannot say, or has no trading on it.

    A master may name a day that has become a holiday since: until it is corrected, the usual hours hold.
    """
    noon_ms = round(datetime.combine(day, clock(12), IST).timestamp() * 1000)
    try:
        hours = calendar_read().hours(segment, noon_ms)
    except PyMongoError:
        return None
    return hours.close_ms if hours is not None and hours.trades else None


def calendar_forget() -> None:
    """Let the next `calendar_read` ask the store."""
    global _cached
    _cached = None


def sessions_record(days: Iterable[Hours]) -> int:
    """Keep these days; recording a day again replaces it, or changes nothing.

    Returns:
        How many were new or other than before.

    Raises:
        pymongo.errors.PyMongoError: repeat.
    """
    target = store.collection(MarketSession._meta.db_table)
    wanted = {_identifier(hours): hours for hours in days}
    known = {row["_id"]: _hours(row) for row in target.find({"_id": {"$in": list(wanted)}})}
    changes = [
        ReplaceOne({"_id": identifier}, _document(hours), upsert=True)
        for identifier, hours in wanted.items()
        if known.get(identifier) != hours._replace(description=hours.description[:DESCRIPTION_LENGTH])
    ]
    if changes:
        target.bulk_write(changes, ordered=False)
        calendar_forget()
    return len(changes)


def _identifier(hours: Hours) -> str:
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=hours.day_ms + IST_OFFSET_MS)
    return f"{hours.exchange}:{day:%Y-%m-%d}"


def _document(hours: Hours) -> dict[str, Any]:
    return {
        "exchange": hours.exchange,
        "day": DatetimeMS(hours.day_ms),
        "opens": DatetimeMS(hours.open_ms) if hours.trades else None,
        "closes": DatetimeMS(hours.close_ms) if hours.trades else None,
        "description": hours.description[:DESCRIPTION_LENGTH],
    }


def _hours(row: dict[str, Any]) -> Hours:
    opens, closes = row.get("opens"), row.get("closes")
    return Hours(
        row["exchange"],
        store.time_ms(row["day"]),
        0 if opens is None else store.time_ms(opens),
        0 if closes is None else store.time_ms(closes),
        row.get("description") or "",
    )
