"""How minutes came to be, and how those made of ticks compared with the broker's bars: one row per instrument and day (CandleParity).

Each hour of a row is counted anew from the stored 1-minute candles whenever one of them has changed, and nothing is ever added to it; the
row is the sum of its hours. Counting again, or after being killed half-way, gives the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from django.conf import settings
from pymongo import ASCENDING, DESCENDING, ReplaceOne

from instruments.models import Instrument
from marketdata import store
from marketdata.calendar import calendar_read
from marketdata.domain.candle import DAY_MS, EPOCH_2020_MIN, IST_OFFSET_MS, MINUTE_MS, candle_id, day_start_ms
from marketdata.domain.session import Calendar
from marketdata.models import OHLC, CandleParity, Gap

Row = dict[str, Any]
Pair = tuple[int, int]
"""Instrument id, and 00:00 IST of a day as ms UTC."""
HOUR_MS = 60 * MINUTE_MS
HOURS = range(24)

FIELDS = ("open", "high", "low", "close", "volume", "prices")
"""What is compared; "prices" is open, high, low and close together."""
STATES = ("confirmed", "closed", "backfilled", "missing")
COUNTS = (*STATES, "revised", "compared", "volume_compared", *(f"{field}_equal" for field in FIELDS))
_BY_HOUR = tuple(name for name in COUNTS if name != "missing")
"""What a row keeps of each hour, in this order, under `hours`; which minutes are missing, the gaps tell."""
HALF_A_CENT = 0.005
OVERLAP = timedelta(seconds=120)
"""So far behind its watermark it looks again, as the roll-up does: a write is stamped up to 20 s before it is acknowledged."""
CHUNK_MINUTES = 20_000
CHUNK_PAIRS = 1000
GAP_DAYS = 40
"""So many days back from market time it is seen that a gap has changed; and no gap lasts longer."""
WATERMARKS = "marketdata_watermark"
WATERMARK = "parity"


class ParityUpdate(NamedTuple):
    """What an update did.

    Attributes:
        changed: 1-minute candles that had changed.
        counted: pairs of instrument and day that were counted.
        complete: False when its time ran out first; the next run goes on where it ended.
    """

    changed: int
    counted: int
    complete: bool


class _Gap(NamedTuple):
    """A gap that is not healed, in whole minutes of market time: [from_ms, to_ms)."""

    id: str
    shard: int
    from_ms: int
    to_ms: int
    instruments: frozenset[int]

    def days(self) -> Iterator[int]:
        return iter(range(day_start_ms(self.from_ms), self.to_ms, DAY_MS))

    def holds(self, instrument: int) -> bool:
        return instrument in self.instruments if self.instruments else instrument % settings.FEED_SHARDS == self.shard


# --- counting ---------------------------------------------------------------------------------------------------------


def parity_update(*, market_ms: int, seconds: float = 45.0) -> ParityUpdate:
    """Count the (instrument, day) pairs anew whose 1-minute candles or gaps have changed since the last run, however long ago.

    Args:
        market_ms: market time: minutes after it cannot be missing yet.
        seconds: stop after so long, between two chunks.

    Raises:
        pymongo.errors.PyMongoError: repeat; the watermark moves behind counted chunks only.
    """
    deadline = time.monotonic() + seconds
    marks = store.collection(WATERMARKS)
    mark = marks.find_one({"_id": WATERMARK}) or {}
    now = datetime.now(UTC).replace(tzinfo=None)
    since = min(mark["u"].replace(tzinfo=None), now) - OVERLAP if "u" in mark else datetime(2020, 1, 1)
    count = _Count(market_ms)
    changed = 0
    found = store.candles_collection().find({"n": "1m", "u": {"$gte": since}}, {"u": 1}).sort("u", ASCENDING)
    with found:
        while chunk := list(islice(found, CHUNK_MINUTES)):
            changed += len(chunk)
            count.minutes(row["_id"] for row in chunk)
            marks.update_one({"_id": WATERMARK}, {"$set": {"u": min(chunk[-1]["u"].replace(tzinfo=None), now)}}, upsert=True)
            if time.monotonic() > deadline:
                return ParityUpdate(changed, len(count.done), complete=len(chunk) < CHUNK_MINUTES)
    known = [_Gap(name, shard, begin, end, frozenset(ids)) for name, shard, begin, end, ids in mark.get("gaps", [])]
    aged = {gap for gap in known if gap.from_ms < count.gaps_since_ms}  # these are looked for no more, and did not heal by that
    count.pairs(_pairs_under((set(known) - aged) ^ set(count.gaps)))
    told = [[*gap[:4], sorted(gap.instruments)] for gap in count.gaps]
    marks.update_one({"_id": WATERMARK}, {"$set": {"gaps": told}}, upsert=True)
    return ParityUpdate(changed, len(count.done), complete=True)


class _Count:
    """One run's counting: every hour once, against the gaps and the calendar as they were when it began."""

    def __init__(self, market_ms: int) -> None:
        self.done: dict[Pair, set[int]] = {}
        """Pair → the hours of it that were counted."""
        self._until_ms = market_ms // MINUTE_MS * MINUTE_MS
        self.gaps_since_ms = day_start_ms(market_ms) - GAP_DAYS * DAY_MS
        self.gaps = _unhealed(self.gaps_since_ms, self._until_ms)

    def minutes(self, identifiers: Iterable[int]) -> None:
        """Count the hours anew that these candles lie in."""
        touched: dict[Pair, set[int]] = {}
        for identifier in identifiers:
            pair, hour = _place_of(identifier)
            touched.setdefault(pair, set()).add(hour)
        self._write({pair: fresh for pair, hours in touched.items() if (fresh := hours - self.done.get(pair, set()))})

    def pairs(self, pairs: Iterable[Pair]) -> None:
        """Tell anew what is missing of those that were not counted yet."""
        self._write({pair: set() for pair in pairs if pair not in self.done})

    def _write(self, touched: dict[Pair, set[int]]) -> None:
        target = store.collection(CandleParity._meta.db_table)
        ordered = iter(sorted(touched))
        while chunk := list(islice(ordered, CHUNK_PAIRS)):
            found = target.find({"_id": {"$in": [_parity_id(pair) for pair in chunk]}}, {"instrument": 1, "day": 1, "hours": 1})
            known = {(int(row["instrument"]), store.time_ms(row["day"])): row["hours"] for row in found if "hours" in row}
            spans = {pair: _span(touched[pair]) if pair in known else HOURS for pair in chunk}
            counted = _counted({pair: span for pair, span in spans.items() if span})
            missing = self._missing(chunk)
            now = datetime.now(UTC)
            rows = []
            for pair in chunk:
                before = {hour: part for hour, part in known.get(pair, {}).items() if int(hour) not in spans[pair]}
                rows.append(_row(pair, before | counted.get(pair, {}), missing.get(pair, 0), now))
                self.done.setdefault(pair, set()).update(spans[pair])
            target.bulk_write([ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in rows], ordered=False)

    def _missing(self, pairs: list[Pair]) -> dict[Pair, int]:
        """Return how many minutes of each pair's session lie in a gap and have no candle; 0 where the session is not known."""
        by_day: dict[int, list[_Gap]] = {}
        oldest = min(day for _, day in pairs)
        gaps = self.gaps if oldest >= self.gaps_since_ms else _unhealed(oldest - GAP_DAYS * DAY_MS, self._until_ms)
        for gap in gaps:
            for day in gap.days():
                by_day.setdefault(day, []).append(gap)
        touched = [(instrument, day) for instrument, day in pairs if day in by_day]
        if not touched:
            return {}
        segments = _segments({instrument for instrument, _ in touched})
        calendar = calendar_read()
        wanted = {
            pair: identifiers
            for pair in touched
            if (identifiers := self._minutes(pair, by_day[pair[1]], segments.get(pair[0], ""), calendar))
        }
        there = _existing(identifier for identifiers in wanted.values() for identifier in identifiers)
        return {pair: len(identifiers - there) for pair, identifiers in wanted.items()}

    def _minutes(self, pair: Pair, gaps: list[_Gap], segment: str, calendar: Calendar) -> set[int]:
        """Return the candle ids of the session's minutes so far that lie in gaps of this instrument."""
        instrument, day = pair
        hours = calendar.hours(segment, day)
        if hours is None:
            return set()
        opens, closes = hours.open_ms, min(hours.close_ms, self._until_ms)
        return {
            candle_id(instrument, "1m", minute)
            for gap in gaps
            if gap.holds(instrument)
            for minute in range(max(gap.from_ms, opens), min(gap.to_ms, closes), MINUTE_MS)
        }


def _place_of(identifier: int) -> tuple[Pair, int]:
    """Return the instrument and the day of a 1-minute candle's id, and its hour of that day."""
    start_ms = ((identifier & (1 << 26) - 1) + EPOCH_2020_MIN) * MINUTE_MS
    day = day_start_ms(start_ms)
    return (int(identifier >> 30), day), (start_ms - day) // HOUR_MS


def _span(hours: set[int]) -> range:
    return range(min(hours), max(hours) + 1) if hours else range(0)


def _sum(condition: Any) -> Row:
    return {"$sum": {"$cond": [condition, 1, 0]}}


def _equal(name: str, at: int) -> Row:
    return {"$lt": [{"$abs": {"$subtract": [f"${name}", {"$arrayElemAt": ["$b", at]}]}}, HALF_A_CENT]}


_COMPARED = {"$and": [{"$eq": ["$s", "confirmed"]}, {"$isArray": "$b"}]}
_VOLUME_COMPARED = {"$and": [_COMPARED, {"$or": [{"$gt": ["$v", 0]}, {"$gt": [{"$arrayElemAt": ["$b", 4]}, 0]}]}]}
"""Indices have no volume: that both sides say 0 is no agreement."""
_EQUAL = [_equal(name, at) for at, name in enumerate("ohlcv")]
_COUNTED = {
    "_id": {"$toInt": {"$divide": [{"$subtract": ["$t", "$$day"]}, HOUR_MS]}},
    **{state: _sum({"$eq": ["$s", state]}) for state in ("confirmed", "closed", "backfilled")},
    "revised": _sum({"$gt": ["$rev", 0]}),
    "compared": _sum(_COMPARED),
    "volume_compared": _sum(_VOLUME_COMPARED),
    **{f"{field}_equal": _sum({"$and": [_COMPARED, equal]}) for field, equal in zip(FIELDS[:4], _EQUAL[:4], strict=True)},
    "volume_equal": _sum({"$and": [_VOLUME_COMPARED, _EQUAL[4]]}),
    "prices_equal": _sum({"$and": [_COMPARED, *_EQUAL[:4]]}),
}
"""What MongoDB counts of one pair's candles, by the hour: it reads them by their ids."""


def _counted(spans: dict[Pair, range]) -> dict[Pair, dict[str, list[int]]]:
    """Return what the stored candles of each pair count to in each of those hours that has any, in one aggregation."""
    if not spans:
        return {}
    asked = [
        {
            "i": instrument,
            "d": DatetimeMS(day),
            "low": candle_id(instrument, "1m", day + hours.start * HOUR_MS),
            "high": candle_id(instrument, "1m", day + hours.stop * HOUR_MS),
        }
        for (instrument, day), hours in spans.items()
    ]
    inside = {"$expr": {"$and": [{"$gte": ["$_id", "$$low"]}, {"$lt": ["$_id", "$$high"]}]}}
    lookup = {
        "from": OHLC._meta.db_table,
        "let": {"low": "$low", "high": "$high", "day": "$d"},
        "pipeline": [{"$match": inside}, {"$group": _COUNTED}],
        "as": "counted",
    }
    found = store.candles_collection().database.aggregate([{"$documents": asked}, {"$lookup": lookup}])
    return {
        (int(row["i"]), store.time_ms(row["d"])): {str(hour["_id"]): [int(hour[name]) for name in _BY_HOUR] for hour in row["counted"]}
        for row in found
    }


def _row(pair: Pair, hours: dict[str, list[int]], missing: int, now: datetime) -> Row:
    instrument, day = pair
    counts = {name: sum([part[at] for part in hours.values()]) for at, name in enumerate(_BY_HOUR)} | {"missing": missing}
    return {"_id": _parity_id(pair), "instrument": instrument, "day": DatetimeMS(day), **counts, "hours": hours, "updated_at": now}


def _parity_id(pair: Pair) -> int:
    return pair[0] << 20 | (pair[1] + IST_OFFSET_MS) // DAY_MS


def _unhealed(since_ms: int, until_ms: int) -> list[_Gap]:
    """Return the gaps that are not healed and began since, as far as market time has come."""
    wanted = {"start": {"$gte": DatetimeMS(since_ms)}, "heal_state": {"$ne": Gap.Heal.HEALED.value}}
    rows = store.collection(Gap._meta.db_table).find(wanted)
    gaps = []
    for row in rows:
        end_ms = until_ms if row.get("end") is None else min(store.time_ms(row["end"]), until_ms)
        first, last = store.time_ms(row["start"]) // MINUTE_MS, -(-end_ms // MINUTE_MS)
        instruments = frozenset(map(int, row["instruments"]))
        gaps.append(_Gap(str(row["_id"]), int(row["shard"]), first * MINUTE_MS, last * MINUTE_MS, instruments))
    return gaps


def _pairs_under(gaps: Iterable[_Gap]) -> Iterator[Pair]:
    """Give the pairs that these gaps may concern: those that have a row, and those that a gap names."""
    table = store.collection(CandleParity._meta.db_table)
    days: set[int] = set()
    for gap in gaps:
        days.update(gap.days())
        yield from ((instrument, day) for day in gap.days() for instrument in gap.instruments)
    for day in days:
        yield from ((int(row["instrument"]), day) for row in table.find({"day": DatetimeMS(day)}, {"instrument": 1}))


def _segments(instruments: set[int]) -> dict[int, str]:
    rows = store.collection(Instrument._meta.db_table).find({"_id": {"$in": list(instruments)}}, {"segment": 1})
    return {int(row["_id"]): row["segment"] for row in rows}


def _existing(identifiers: Iterator[int]) -> set[int]:
    """Return which of these candles are stored."""
    found: set[int] = set()
    while chunk := list(islice(identifiers, CHUNK_MINUTES)):
        found.update(int(row["_id"]) for row in store.candles_collection().find({"_id": {"$in": chunk}}, {"_id": 1}))
    return found


# --- reading ----------------------------------------------------------------------------------------------------------

_SHARE = {"$cond": [{"$gt": ["$compared", 0]}, {"$divide": ["$prices_equal", "$compared"]}, 2.0]}
ORDERS: dict[str, Any] = {"prices": _SHARE, "missing": {"$multiply": ["$missing", -1.0]}, "instrument": 0.0}
"""Order → what is sorted by, the smallest first: the worst share of equal prices (not compared: last), the most missing, the id."""


class Mark(NamedTuple):
    """Where a page ended: the last row's sort value and instrument."""

    value: float
    instrument: int


def parity_day(until_ms: int, instrument: int | None = None) -> int | None:
    """Return the newest day, 00:00 IST in ms UTC, at or before that of `until_ms`, of which something is counted; None: there is none."""
    last = day_start_ms(until_ms)
    table = store.collection(CandleParity._meta.db_table)
    if instrument is None:
        found = table.find_one({"day": {"$lte": DatetimeMS(last)}}, {"day": 1}, sort=[("day", DESCENDING)])
    else:
        span = {"$gte": _parity_id((instrument, -IST_OFFSET_MS)), "$lte": _parity_id((instrument, last))}
        found = table.find_one({"_id": span}, {"day": 1}, sort=[("_id", DESCENDING)])
    return None if found is None else store.time_ms(found["day"])


def parity_total(day_ms: int) -> Row:
    """Return the counts of all instruments of a day together, and under `instruments` how many they are."""
    sums: Row = {"_id": None, "instruments": {"$sum": 1}, **{name: {"$sum": f"${name}"} for name in COUNTS}}
    table = store.collection(CandleParity._meta.db_table)
    found = next(iter(table.aggregate([{"$match": {"day": DatetimeMS(day_ms)}}, {"$group": sums}])), {})
    return {name: int(found.get(name, 0)) for name in ("instruments", *COUNTS)}


def parity_rows(
    day_ms: int, *, instrument: int | None = None, order: str = "prices", after: Mark | None = None, limit: int
) -> list[tuple[Row, Mark]]:
    """Return the rows of a day, the worst first, each with the mark that the next page begins behind.

    Args:
        day_ms: 00:00 IST, ms UTC.
        instrument: only this one's.
        order: one of ORDERS.
        limit: rows at the most.
    """
    wanted: Row = {"day": DatetimeMS(day_ms)} | ({} if instrument is None else {"instrument": instrument})
    stages: list[Row] = [{"$match": wanted}, {"$set": {"by": ORDERS[order]}}]
    if after is not None:
        behind = [{"by": {"$gt": after.value}}, {"by": after.value, "instrument": {"$gt": after.instrument}}]
        stages.append({"$match": {"$or": behind}})
    stages += [{"$sort": {"by": 1, "instrument": 1}}, {"$limit": limit}]
    found = store.collection(CandleParity._meta.db_table).aggregate(stages)
    names = ("instrument", *COUNTS)
    return [({name: int(row.get(name, 0)) for name in names}, Mark(float(row["by"]), int(row["instrument"]))) for row in found]


def percents(row: Row) -> dict[str, float | None]:
    """Return for each of FIELDS in how many of the compared minutes it was equal, in percent; None: nothing was compared."""
    of = {field: row["volume_compared" if field == "volume" else "compared"] for field in FIELDS}
    return {field: round(100 * row[f"{field}_equal"] / of[field], 2) if of[field] else None for field in FIELDS}
