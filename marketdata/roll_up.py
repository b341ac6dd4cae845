"""Coarser candles, made inside the database: 5m of 1m, 15m of 5m, 1h of 15m, 1d of 1h, grouped by MongoDB and merged where they differ.

Laws: the outcome equals `fold_candles` of the 1-minute candles inside trading hours, where the calendar knows these; it is derived,
so it replaces what is there whatever its state, but never a daily candle that the broker's own bar has made final. Repeating it,
also after it was killed half-way, changes nothing. No candle passes through Python.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any, NamedTuple

from bson import Int64
from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, DeleteMany

from instruments.models import Instrument
from marketdata import store
from marketdata.calendar import calendar_read
from marketdata.domain.candle import (
    CERTAINTY,
    DAY_MS,
    EPOCH_2020_MIN,
    INTERVAL_CODE,
    INTERVAL_MINUTES,
    IST_OFFSET_MS,
    MINUTE_MS,
    STORED_INTERVALS,
    Candle,
    candle_id,
    day_start_ms,
    interval_end_ms,
    interval_start_ms,
)
from marketdata.domain.session import Calendar, Hours
from marketdata.models import OHLC

OVERLAP = timedelta(seconds=120)
"""So much of the past is always looked at again: a write is stamped before it is acknowledged (at most 20 s later), and a clock that
was set back stamps lower than before. Older stamps are passed once only, so that each run gets further, whatever there is to do."""
CHUNK_MINUTES = 200_000
"""Changed 1-minute candles whose coarser ones are made at once; the watermark moves behind them."""
CHUNK_SPANS = 500
"""Instruments and days in one pipeline."""
WATERMARKS = "marketdata_watermark"
ROLL_UP = "roll_up"
COARSE = STORED_INTERVALS[1:]

Document = dict[str, Any]
_STATES = sorted(CERTAINTY, key=CERTAINTY.__getitem__)
_VALUES = ("o", "h", "l", "c", "v")


class RollUp(NamedTuple):
    """What a roll-up did.

    Attributes:
        changed: 1-minute candles that had changed.
        written: coarser candles that are new or different.
        complete: False when its time ran out first; the next run goes on where it ended.
    """

    changed: int
    written: int
    complete: bool


class _Span(NamedTuple):
    """The first and the last touched minute of one instrument on one day, ms UTC."""

    instrument: int
    from_ms: int
    to_ms: int


def candles_roll_up(*, seconds: float = 45.0) -> RollUp:
    """Bring 5m, 15m, 1h and 1d up to what has changed among the 1-minute candles since the last run, however long ago.

    Changed means written, corrected or back-filled, whatever its time: the watermark is the clock of the write.

    Args:
        seconds: stop after so long, between two chunks.

    Raises:
        pymongo.errors.PyMongoError: repeat; the watermark moves behind finished chunks only.
    """
    deadline = time.monotonic() + seconds
    marks = store.collection(WATERMARKS)
    mark = marks.find_one({"_id": ROLL_UP})
    now = datetime.now(UTC).replace(tzinfo=None)
    stamp, settled = DatetimeMS(now), now - OVERLAP
    span: Document = {"$gt": min(mark["u"].replace(tzinfo=None), settled) if mark else datetime(2020, 1, 1)}
    changed, complete = 0, False
    while not complete:
        until = _chunk_end(span)
        spans, minutes, newest = _changed(span if until is None else {**span, "$lte": until})
        if minutes:
            _roll_up(spans, stamp)
            marks.update_one({"_id": ROLL_UP}, {"$set": {"u": min(newest, settled)}}, upsert=True)
        changed, complete, span = changed + minutes, until is None, {"$gt": until}
        if time.monotonic() > deadline:
            break
    return RollUp(changed, store.candles_collection().count_documents(_written(stamp)), complete)


def candles_roll_up_minutes(minutes: Iterable[tuple[int, int]]) -> list[Candle]:
    """Make the coarser candles that the given minutes lie in, at once.

    Args:
        minutes: (instrument id, start in ms UTC) of 1-minute candles.

    Returns:
        The coarser candles that are new or different, by interval.

    Raises:
        pymongo.errors.PyMongoError: repeat.
    """
    touched: dict[tuple[int, int], _Span] = {}
    for instrument, start in minutes:
        day = (instrument, day_start_ms(start))
        span = touched.get(day, _Span(instrument, start, start))
        touched[day] = _Span(instrument, min(span.from_ms, start), max(span.to_ms, start))
    stamp = DatetimeMS(datetime.now(UTC))
    _roll_up(list(touched.values()), stamp)
    found = store.candles_collection().find(_written(stamp)).sort("_id", ASCENDING)
    return sorted(map(store.candle_from_document, found), key=lambda candle: INTERVAL_CODE[candle.interval])


def daily_confirm(candles: Iterable[Candle]) -> int:
    """Write the broker's own daily bars: confirmed and final, the revision one higher where they differ from what we had.

    Returns:
        How many were new or changed.

    Raises:
        pymongo.errors.PyMongoError: safe to repeat.
    """
    return store.candles_write((candle._replace(interval="1d", state="confirmed") for candle in candles), final=True)


# --- what has changed -------------------------------------------------------------------------------------------------


def _chunk_end(span: Document) -> datetime | None:
    """Return the stamp that ends a chunk; None where the rest is one."""
    found = store.candles_collection().find({"n": "1m", "u": span}, {"_id": 0, "u": 1}).sort("u", ASCENDING)
    rows = list(found.skip(CHUNK_MINUTES - 1).limit(1))
    return rows[0]["u"] if rows else None


def _changed(span: Document) -> tuple[list[_Span], int, datetime]:
    """Return what 1-minute candles stamped within `span` touch, how many they are, and their newest stamp."""
    day = {"$subtract": ["$t", {"$mod": [{"$subtract": ["$t", DatetimeMS(-IST_OFFSET_MS)]}, Int64(DAY_MS)]}]}
    group = {
        "_id": {"i": "$i", "day": day},
        "from": {"$min": "$t"},
        "to": {"$max": "$t"},
        "u": {"$max": "$u"},
        "minutes": {"$sum": 1},
    }
    rows = list(store.candles_collection().aggregate([{"$match": {"n": "1m", "u": span}}, {"$group": group}], allowDiskUse=True))
    spans = [_Span(int(row["_id"]["i"]), store.time_ms(row["from"]), store.time_ms(row["to"])) for row in rows]
    newest = max((row["u"].replace(tzinfo=None) for row in rows), default=datetime(2020, 1, 1))
    return spans, sum(row["minutes"] for row in rows), newest


def _written(stamp: DatetimeMS) -> Document:
    return {"n": {"$in": list(COARSE)}, "u": stamp}


# --- grouping and merging ---------------------------------------------------------------------------------------------


def _roll_up(spans: list[_Span], stamp: DatetimeMS) -> None:
    """Make all coarser candles of what is touched, each interval of the next finer one; what becomes different gets the stamp."""
    calendar = calendar_read()
    segments = _segments({span.instrument for span in spans})
    spans = _evenings_whole(spans, segments, calendar)
    hours = {span: calendar.hours(segments.get(span.instrument, ""), span.from_ms) for span in spans}
    anchors = {span: calendar.anchors(segments.get(span.instrument, "")).of(day_start_ms(span.from_ms)) for span in spans}
    target = store.candles_collection()
    for finer, interval in pairwise(STORED_INTERVALS):
        parts: dict[int, list[Document]] = {}
        for span in spans:
            low, high = _parts(span, finer, interval, anchors[span], hours[span])
            if low < high:
                bounds = {"$gte": candle_id(span.instrument, finer, low), "$lt": candle_id(span.instrument, finer, high)}
                parts.setdefault(anchors[span], []).append({"_id": bounds})
        for anchor_ms, ranges in parts.items():
            rest: Iterator[Document] = iter(ranges)
            while chunk := list(islice(rest, CHUNK_SPANS)):
                target.aggregate([{"$match": {"$or": chunk}}, *_fold(interval, anchor_ms, stamp)], allowDiskUse=True)


def _evenings_whole(spans: list[_Span], segments: Mapping[int, str], calendar: Calendar) -> list[_Span]:
    """Return the spans; those of days that are counted from their own open as whole sessions, what was counted from elsewhere removed.

    Such a day's hours may have been learnt while it traded already.
    """
    whole: list[_Span] = []
    misplaced: list[DeleteMany] = []
    for span in spans:
        segment, day = segments.get(span.instrument, ""), day_start_ms(span.from_ms)
        hours = calendar.hours(segment, day)
        if hours is not None and day in calendar.anchors(segment).special:
            for interval in COARSE[:-1]:
                low, high, opens = (candle_id(span.instrument, interval, at) for at in (day, day + DAY_MS, hours.open_ms))
                length = INTERVAL_MINUTES[interval]
                misplaced.append(DeleteMany({"_id": {"$gte": low, "$lt": high, "$not": {"$mod": [length, opens % length]}}}))
            span = _Span(span.instrument, hours.open_ms, hours.close_ms - 1)
        whole.append(span)
    if misplaced:
        store.candles_collection().bulk_write(misplaced, ordered=False)
    return whole


def _parts(span: _Span, finer: str, interval: str, anchor_ms: int, hours: Hours | None) -> tuple[int, int]:
    """Return from where to where (ms UTC, the end not included) the finer candles start that make those of `interval`."""
    low = interval_start_ms(span.from_ms, interval, anchor_ms)
    high = interval_end_ms(interval_start_ms(span.to_ms, interval, anchor_ms), interval, anchor_ms)
    if hours is None:
        return low, high
    opens = interval_start_ms(hours.open_ms, finer, anchor_ms)
    return max(low, opens), min(high, -(-hours.close_ms // MINUTE_MS) * MINUTE_MS)


def _fold(interval: str, anchor_ms: int, stamp: DatetimeMS) -> list[Document]:
    """Return the stages that fold finer candles, which come in any order, into `interval`, and merge them into the collection."""
    length = INTERVAL_MINUTES[interval] * MINUTE_MS  # a divisor of the day, so that all days are counted alike
    midnight = -IST_OFFSET_MS
    counted_from = midnight if interval == "1d" else midnight + anchor_ms - DAY_MS
    start = {"$max": [_multiple(length, counted_from), _multiple(DAY_MS, midnight)]}
    group = {
        "_id": {"i": "$i", "t": start},
        "first": {"$min": {"t": "$t", "o": "$o"}},
        "h": {"$max": "$h"},
        "l": {"$min": "$l"},
        "last": {"$max": {"t": "$t", "c": "$c", "oi": "$oi"}},
        "v": {"$sum": "$v"},
        "s": {"$min": {"$indexOfArray": [_STATES, "$s"]}},
        "tk": {"$sum": "$tk"},
        "fewest": {"$min": {"$ifNull": ["$tk", -1]}},
        "e": {"$max": {"$ifNull": ["$e", "$t"]}},
    }
    at_most = CERTAINTY["closed"] if interval == "1d" else CERTAINTY["confirmed"]
    minute = {"$toLong": {"$divide": [{"$toLong": "$_id.t"}, MINUTE_MS]}}
    of_1970 = candle_id(0, interval, EPOCH_2020_MIN * MINUTE_MS) - EPOCH_2020_MIN
    candle = {
        "_id": {"$add": [{"$multiply": ["$_id.i", Int64(candle_id(1, "1m", EPOCH_2020_MIN * MINUTE_MS))]}, minute, of_1970]},
        "i": "$_id.i",
        "n": {"$literal": interval},
        "t": "$_id.t",
        "o": "$first.o",
        "h": 1,
        "l": 1,
        "c": "$last.c",
        "v": 1,
        "oi": {"$ifNull": ["$last.oi", None]},
        "s": {"$arrayElemAt": [_STATES, {"$min": ["$s", at_most]}]},
        "rev": {"$literal": 0},
        "tk": {"$cond": [{"$lt": ["$fewest", 0]}, None, "$tk"]},
        "e": 1,
        "u": stamp,
    }  # fmt: skip
    into = {"into": OHLC._meta.db_table, "on": "_id", "whenMatched": _merged(), "whenNotMatched": "insert"}
    return [{"$group": group}, {"$project": candle}, {"$merge": into}]


def _multiple(length: int, counted_from_ms: int) -> Document:
    """Return the start of the candle that a time lies in, where they are `length` ms long and counted from a moment."""
    return {"$subtract": ["$t", {"$mod": [{"$subtract": ["$t", DatetimeMS(counted_from_ms)]}, Int64(length)]}]}


def _merged() -> list[Document]:
    """Return what becomes of a stored candle when it is made again.

    Its revision rises when other values come without a newer minute (`e` is the last one's start): a forming candle only grows.
    """
    differs = {"$or": [{"$ne": [f"${name}", f"$$new.{name}"]} for name in _VALUES]}
    revised = {"$and": [differs, {"$eq": ["$e", "$$new.e"]}]}
    changed = {"$or": [differs, *({"$ne": [f"${name}", f"$$new.{name}"]} for name in ("oi", "s", "tk", "e"))]}
    made = {"rev": {"$add": ["$rev", {"$cond": [revised, 1, 0]}]}, "u": {"$cond": [changed, "$$new.u", "$u"]}}
    return [{"$replaceWith": {"$cond": [{"$eq": ["$f", True]}, "$$ROOT", {"$mergeObjects": ["$$ROOT", "$$new", made]}]}}]


def _segments(instruments: set[int]) -> Mapping[int, str]:
    """Return the segment of each instrument; those that are not known are left out."""
    table = store.collection(Instrument._meta.db_table)
    return {row["_id"]: row["segment"] for row in table.find({"_id": {"$in": list(instruments)}}, {"segment": 1})}
