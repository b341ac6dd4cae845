"""What an instrument's open interest of one day is compared with: the day's first, and the trading day's before.

Both are stored by the broker's task (`broker.open_interest`); a close that is not is taken from candles. Nothing here asks a broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, UpdateOne
from pymongo.collection import Collection

from marketdata import models, store
from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, candle_id
from marketdata.domain.chain_rows import InterestBase

DAYS_BACK = 10
"""A trading day before is looked for so far back: the longest holidays and their weekends."""


def base_id(instrument: int, day_ms: int) -> int:
    """Return the id of a stored base. `day_ms`: 00:00 IST, ms UTC."""
    return instrument << 20 | (day_ms + IST_OFFSET_MS) // DAY_MS


def bases_read(instruments: Iterable[int], day_ms: int) -> dict[int, InterestBase]:
    """Return what the open interest of some instruments is compared with: what is stored, and the last daily candle's where no close is.

    Two queries at the most, however many instruments.

    Args:
        instruments: our ids.
        day_ms: the market's day, 00:00 IST, ms UTC.

    Returns:
        instrument → its base; those of which nothing is known are left out.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    wanted = list(instruments)
    rows = {row["_id"]: row for row in _bases().find({"_id": {"$in": [base_id(each, day_ms) for each in wanted]}}, batch_size=10_000)}
    stored = {each: rows.get(base_id(each, day_ms), {}) for each in wanted}
    all_told = all(row.get("previous_close") is not None for row in stored.values())
    closes = {} if all_told else closes_before(wanted, day_ms)
    found = {}
    for each, row in stored.items():
        told = row.get("previous_close")
        base = InterestBase(row.get("day_start"), closes.get(each) if told is None else told)
        if base != InterestBase():
            found[each] = base
    return found


def bases_write(bases: Mapping[int, InterestBase], day_ms: int) -> int:
    """Keep what is known of a day; what is None leaves what was stored. Writing again changes nothing.

    Returns:
        How many were new or other than before.

    Raises:
        pymongo.errors.PyMongoError: safe to repeat.
    """
    changes = []
    for instrument, base in bases.items():
        known: dict[str, Any] = {name: value for name, value in base._asdict().items() if value is not None}
        unknown = {name: None for name in base._fields if name not in known}
        named = {"instrument": instrument, "day": DatetimeMS(day_ms)}
        if known:
            write = {"$set": known, "$setOnInsert": named | unknown}
            changes.append(UpdateOne({"_id": base_id(instrument, day_ms)}, write, upsert=True))
    if not changes:
        return 0
    done = _bases().bulk_write(changes, ordered=False)
    return done.modified_count + done.upserted_count


def closes_stored(instruments: Iterable[int], day_ms: int) -> set[int]:
    """Return those whose previous close the broker has told for that day."""
    identifiers = {base_id(each, day_ms): each for each in instruments}
    known = {"_id": {"$in": list(identifiers)}, "previous_close": {"$ne": None}}
    return {identifiers[row["_id"]] for row in _bases().find(known, {"_id": 1}, batch_size=10_000)}


def previous_closes(instruments: Iterable[int], day_ms: int) -> dict[int, float]:
    """Return the open interest at the end of the trading day before: the broker's own, else the last daily candle's. Two queries.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    wanted = list(instruments)
    stored = _bases().find({"_id": {"$in": [base_id(each, day_ms) for each in wanted]}, "previous_close": {"$ne": None}}, batch_size=10_000)
    told = {int(row["instrument"]): float(row["previous_close"]) for row in stored}
    return closes_before([each for each in wanted if each not in told], day_ms) | told


def firsts_of(instruments: Iterable[int], day_ms: int, *, telling: bool = True) -> dict[int, tuple[int, float | None]]:
    """Return of each instrument's first 1-minute candle of the day its start, ms UTC, and the open interest at its end.

    One query, which seeks each instrument's first by primary key: 60 ms for 1,000, where a query for each took 370.

    Args:
        telling: the first that tells open interest; else the first of all.
    """
    spans = [{"i": each, "low": candle_id(each, "1m", day_ms), "high": candle_id(each, "1m", day_ms + DAY_MS)} for each in instruments]
    if not spans:
        return {}
    candles = store.candles_collection()
    wanted: dict[str, Any] = {"$expr": {"$and": [{"$gte": ["$_id", "$$low"]}, {"$lt": ["$_id", "$$high"]}]}}
    if telling:
        wanted["oi"] = {"$ne": None}
    first = [{"$match": wanted}, {"$sort": {"_id": ASCENDING}}, {"$limit": 1}]
    steps: list[dict[str, Any]] = [
        {"$documents": spans},
        {"$lookup": {"from": candles.name, "let": {"low": "$low", "high": "$high"}, "pipeline": first, "as": "first"}},
        {"$unwind": "$first"},
        {"$project": {"i": 1, "t": "$first.t", "oi": "$first.oi"}},
    ]
    return {int(row["i"]): (store.time_ms(row["t"]), row.get("oi")) for row in candles.database.aggregate(steps, batchSize=10_000)}


def closes_before(instruments: Iterable[int], day_ms: int) -> dict[int, float]:
    """Return the open interest of the daily candles of the last day before on which any of these instruments traded.

    Only of that day: an older candle may mean that we did not follow the instrument since.
    """
    days = [day_ms - back * DAY_MS for back in range(1, DAYS_BACK + 1)]
    named = {candle_id(each, "1d", day): each for each in instruments for day in days}
    rows = list(store.candles_collection().find({"_id": {"$in": list(named)}}, {"oi": 1, "t": 1}, batch_size=10_000)) if named else []
    newest = max((row["t"] for row in rows), default=None)
    return {named[row["_id"]]: float(row["oi"]) for row in rows if row["t"] == newest and row.get("oi") is not None}


def _bases() -> Collection[store.Document]:
    return store.collection(models.InterestBase._meta.db_table)
