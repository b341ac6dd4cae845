"""Ticks and candles in MongoDB: bulk writes and series reads by PyMongo on Django's own connection.

Writing a batch again changes nothing: ids are derived, only duplicate-key errors are ignored. No business rule lives here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from django.db import connections
from pymongo import ASCENDING, DESCENDING, InsertOne, UpdateOne, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from marketdata.domain.candle import CERTAINTY, EPOCH_2020_MIN, MINUTE_MS, Candle, candle_id, day_start_ms
from marketdata.domain.tick import Tick, stamp_to_ms, tick_id
from marketdata.models import OHLC, MarketStatus, MarketTick

DUPLICATE_KEY = 11000
TICK_INDEX = "tick_instrument_time"
MAJORITY = WriteConcern(w="majority", wtimeout=20_000)
"""`w: 1` lost acknowledged ticks when mongod was killed (ARCHITECTURE §4). 20 s, then the batch is tried again."""

Document = dict[str, Any]


class Written(NamedTuple):
    """What a write did: documents that are new, and those that were there already."""

    inserted: int
    duplicates: int


def collection(name: str) -> Collection[Document]:
    """Return a collection of Django's default database, acknowledged by a majority."""
    database: Database[Document] = connections["default"].database  # type: ignore[attr-defined]  # the MongoDB backend's
    return database.get_collection(name, write_concern=MAJORITY)


def ticks_collection() -> Collection[Document]:
    """Return the collection of MarketTick."""
    return collection(MarketTick._meta.db_table)


def candles_collection() -> Collection[Document]:
    """Return the collection of OHLC."""
    return collection(OHLC._meta.db_table)


_INT32, _INT64, _DATE, _DOUBLE = (b"\x10", "i"), (b"\x12", "q"), (b"\x09", "q"), (b"\x01", "d")
"""BSON's type byte and how its value is packed. Source: bsonspec.org, read 2026-11-22."""
_STAMPED = (("_id", _INT64), ("i", _INT64), ("t", _DATE), ("r", _DATE), ("k", _INT32))
_SAID = (
    ("lt", _DATE), ("p", _DOUBLE), ("q", _INT64), ("c", _DOUBLE), ("v", _INT64), ("a", _DOUBLE), ("oi", _DOUBLE), ("iv", _DOUBLE),
    ("d", _DOUBLE), ("th", _DOUBLE), ("g", _DOUBLE), ("ve", _DOUBLE), ("rh", _DOUBLE), ("bp", _DOUBLE), ("bq", _INT64), ("ap", _DOUBLE),
    ("aq", _INT64), ("tb", _DOUBLE), ("ts", _DOUBLE),
)  # fmt: skip
"""MarketTick's names of `Tick`'s fields from `last_trade_ms` to `total_sell_quantity`, in their order."""
_FIRST, _LAST = Tick._fields.index("last_trade_ms"), Tick._fields.index("total_sell_quantity") + 1


@lru_cache(maxsize=4096)
def _layout(known: tuple[bool, ...]) -> tuple[Callable[..., bytes], list[Any]]:
    """Return how to pack a tick of which these fields are known: the packer and its arguments, the values still missing."""
    fields = [*_STAMPED, *(field for field, is_known in zip(_SAID, known, strict=True) if is_known)]
    names = [type_byte + name.encode() + b"\0" for name, (type_byte, _) in fields]
    packer = struct.Struct("<i" + "".join(f"{len(name)}s{code}" for name, (_, (_, code)) in zip(names, fields, strict=True)) + "x")
    return packer.pack, [packer.size, *(word for name in names for word in (name, None))]


_WHOLE = _layout((True,) * len(_SAID))


def tick_bson(tick: Tick, received_us: int, broker_ms: int, kind: int) -> bytes:
    """Return a tick as MarketTick stores it: what the frame said, unknown fields left out.

    It is BSON already, packed in one step: a dictionary and the driver's encoding of it take three times as long (docs/performance.md).

    Args:
        tick: decoded.
        received_us: the frame's stamp (`received_stamp_us`).
        broker_ms: broker's clock of the frame, ms UTC; 0 is taken as the received time.
        kind: a TickKind.
    """
    values: Sequence[Any] = tick[_FIRST:_LAST]
    if not all(values):  # a None, or a zero
        pack, words = _layout(tuple([value is not None for value in values]))
        values = [value for value in values if value is not None]
    else:
        pack, words = _WHOLE
    received_ms = stamp_to_ms(received_us)
    words = words.copy()
    words[2::2] = (tick_id(received_us, tick.rank), tick.instrument, broker_ms or received_ms, received_ms, kind, *values)
    return pack(*words)


def ticks_write(documents: Sequence[bytes], target: Collection[Document] | None = None) -> Written:
    """Insert ticks, acknowledged by a majority; those that are there already stay as they are.

    Args:
        documents: BSON, as `tick_bson` makes it.
        target: `ticks_collection()` of another thread; Django would make a client for each thread.

    Raises:
        pymongo.errors.PyMongoError: anything but duplicate keys; the whole batch may be written again.
    """
    if not documents:
        return Written(0, 0)
    try:
        (ticks_collection() if target is None else target).insert_many([RawBSONDocument(document) for document in documents], ordered=False)
    except BulkWriteError as error:
        details = error.details
        if details.get("writeConcernErrors") or any(row["code"] != DUPLICATE_KEY for row in details["writeErrors"]):
            raise
        return Written(details["nInserted"], len(details["writeErrors"]))
    return Written(len(documents), 0)


def candles_write(candles: Iterable[Candle], built: Mapping[int, tuple[float, ...]] | None = None, *, final: bool = False) -> int:
    """Upsert stored candles. Any number of processes may write the same ones at once: each is compared and replaced atomically.

    A less certain state never replaces a more certain one. Equal values change nothing but a state that becomes more certain, and
    a given higher revision; other values raise the revision by one, or to the candle's own where that is higher. Open interest,
    `ticks` and `built` stay where a later write does not give them; one that comes late fills in what is not known yet.

    Args:
        candles: of STORED_INTERVALS; those that come twice are written one after the other.
        built: candle id → open, high, low, close, volume as ticks had made it before it was confirmed.
        final: these are the broker's own daily bars: the roll-up leaves them as they are.

    Returns:
        How many were new or changed.

    Raises:
        pymongo.errors.PyMongoError: safe to repeat.
    """
    told: dict[int, list[Candle]] = {}
    for candle in candles:
        told.setdefault(candle_id(candle.instrument, candle.interval, candle.start_ms), []).append(candle)
    changed = 0
    target = candles_collection()
    while told:
        stored = {row["_id"]: row for row in target.find({"_id": {"$in": list(told)}}, _COMPARED)}
        writes = _candle_writes(told, stored, built or {}, final)
        quicker: list[int] = []  # another process had changed these since we read them: they are read again
        if writes:
            try:
                target.bulk_write(list(writes.values()), ordered=False)
            except BulkWriteError as error:
                if error.details.get("writeConcernErrors") or any(row["code"] != DUPLICATE_KEY for row in error.details["writeErrors"]):
                    raise
                identifiers = list(writes)
                quicker = [identifiers[row["index"]] for row in error.details["writeErrors"]]
        changed += len(writes) - len(quicker)
        told = {identifier: told[identifier] for identifier in quicker}
    return changed


_VALUES = ("o", "h", "l", "c", "v")
_COMPARED = dict.fromkeys((*_VALUES, "oi", "s", "rev", "tk", "b", "f"), 1)
"""What a write of a candle decides by, and what must still be so when it happens."""


def _candle_writes(
    told: Mapping[int, list[Candle]], stored: Mapping[int, Document], built: Mapping[int, tuple[float, ...]], final: bool
) -> dict[int, InsertOne[Document] | UpdateOne]:
    """Return what makes the stored candles of what we are told.

    An update holds only while the candle is as it was read. Else it is an "upsert" of an id that is there: a duplicate key.
    """
    now = datetime.now(UTC)  # the roll-up's mark of what has changed
    writes: dict[int, InsertOne[Document] | UpdateOne] = {}
    for identifier, candles in told.items():
        old = stored.get(identifier, {})
        changes: Document = {}
        for candle in candles:
            changes |= _candle_changes(old | changes, candle, built.get(identifier), final)
        named = {"i": candles[0].instrument, "n": candles[0].interval, "t": DatetimeMS(candles[0].start_ms)}
        if not old:
            writes[identifier] = InsertOne({"_id": identifier} | named | changes | {"u": now})
        elif changes:
            as_read = {name: old.get(name) for name in ("_id", *_COMPARED)}
            writes[identifier] = UpdateOne(as_read, {"$set": changes | {"u": now}, "$setOnInsert": named}, upsert=True)
    return writes


def _candle_changes(old: Document, candle: Candle, built: tuple[float, ...] | None, final: bool) -> Document:
    """Return what of a stored candle becomes different by being told another; `old` is empty for one that is not stored."""
    wanted: Document = {}
    interest = candle.open_interest
    if (candle.interval, candle.state, candle.ticks) == ("1m", "confirmed", None) and old.get("tk") is not None:
        interest = old.get("oi") or interest  # of its last tick; a bar comes with the open interest of a later moment
    more = {"oi": interest, "tk": candle.ticks, "b": None if built is None else list(built), "f": final or None}
    if not old or CERTAINTY[candle.state] >= CERTAINTY[old["s"]]:
        wanted = {"o": candle.open, "h": candle.high, "l": candle.low, "c": candle.close, "v": candle.volume, "s": candle.state}
        differs = bool(old) and any(old[name] != wanted[name] for name in _VALUES)
        wanted["rev"] = max(old.get("rev", 0) + differs, candle.revision)
    wanted |= {name: value for name, value in more.items() if value is not None and (wanted or old.get(name) is None)}
    return {name: value for name, value in wanted.items() if old.get(name) != value}


def candle_from_document(row: Document) -> Candle:
    """Return a stored candle as the domain's. Its whole numbers are plain `int`s, not PyMongo's `Int64`, which JSON encoders refuse."""
    return Candle(
        instrument=int(row["i"]),
        interval=row["n"],
        start_ms=time_ms(row["t"]),
        open=row["o"],
        high=row["h"],
        low=row["l"],
        close=row["c"],
        volume=int(row["v"]),
        open_interest=row.get("oi"),
        state=row["s"],
        revision=int(row.get("rev", 0)),
        ticks=None if (ticks := row.get("tk")) is None else int(ticks),
    )


def time_ms(value: datetime | DatetimeMS) -> int:
    """Return a BSON date, as PyMongo or Django decoded it, as ms UTC."""
    if isinstance(value, DatetimeMS):
        return int(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return round(value.timestamp() * 1000)


def ticks_read(
    instrument: int, *, from_ms: int, to_ms: int, after: int | None = None, limit: int, newest_first: bool = False
) -> list[Document]:
    """Read one instrument's ticks with from_ms <= time < to_ms by the index (instrument, time, id).

    Args:
        after: id of the last tick of the page before; the next page begins behind it.
        limit: documents at the most.

    Returns:
        Raw documents with MarketTick's short names, in order of (time, id); empty where there are none.
    """
    step = DESCENDING if newest_first else ASCENDING
    low, high = (from_ms, 0), (to_ms, 0)
    source = ticks_collection()
    last = source.find_one({"_id": after}, {"t": 1}) if after is not None else None
    if after is not None and last is None and newest_first:
        return []  # it has passed its retention, and all before it too
    if last is not None:
        if newest_first:
            high = min(high, (time_ms(last["t"]), last["_id"]))
        else:
            low = max(low, (time_ms(last["t"]), last["_id"] + 1))
    if low >= high:
        return []  # also a page mark from outside of the range; MongoDB refuses such bounds
    bounds: list[Any] = [[("i", instrument), ("t", DatetimeMS(at)), ("_id", identifier)] for at, identifier in (low, high)]
    found = source.find({"i": instrument}).hint(TICK_INDEX).min(bounds[0]).max(bounds[1]).sort([("i", step), ("t", step), ("_id", step)])
    return list(found.limit(limit))


def candles_read(instrument: int, interval: str, *, from_ms: int, to_ms: int, limit: int, newest_first: bool = False) -> list[Candle]:
    """Read one instrument's candles with from_ms <= start < to_ms by primary key.

    Args:
        interval: one of STORED_INTERVALS.
        limit: candles at the most.

    Returns:
        In order of start; the newest first when asked; empty where there are none.

    Raises:
        KeyError: an interval that is not stored.
    """
    bounds = {"$gte": candle_id(instrument, interval, _clip(from_ms)), "$lt": candle_id(instrument, interval, _clip(to_ms))}
    found = candles_collection().find({"_id": bounds}, _READ).sort("_id", DESCENDING if newest_first else ASCENDING)
    first = candle_id(instrument, interval, EPOCH_2020_MIN * MINUTE_MS) - EPOCH_2020_MIN
    return [
        Candle(
            instrument,
            interval,
            (row["_id"] - first) * MINUTE_MS,
            row["o"],
            row["h"],
            row["l"],
            row["c"],
            int(row["v"]),
            row.get("oi"),
            row["s"],
            int(row["rev"]),
            row.get("tk"),
        )
        for row in found.limit(limit).batch_size(limit)
    ]


_READ = {"i": 0, "n": 0, "t": 0, "u": 0, "b": 0, "e": 0, "f": 0}
"""What is left out: the id says it, or nobody asks."""


def candle_newest_ms(instrument: int, interval: str) -> int | None:
    """Return the start of the instrument's newest stored candle of an interval; None where there is none."""
    bounds = {"$gte": candle_id(instrument, interval, _clip(0)), "$lt": candle_id(instrument, interval, _clip(2**62))}
    row = candles_collection().find_one({"_id": bounds}, {"_id": 1}, sort=[("_id", DESCENDING)])
    return None if row is None else (row["_id"] - candle_id(instrument, interval, _clip(0))) * MINUTE_MS + _clip(0)


def _clip(value_ms: int) -> int:
    """Keep a time inside what a candle id can say: 2020 to 2147."""
    return min(max(-(-value_ms // MINUTE_MS) * MINUTE_MS, 1_577_836_800_000), 5_604_000_000_000)


def tick_count_estimate() -> int:
    """Return the number of stored ticks from the collection's metadata, without counting."""
    return ticks_collection().estimated_document_count()


def ticks_stored_today(now_ms: int) -> int:
    """Return the number of ticks received since 00:00 IST, from the primary index."""
    from_us = (day_start_ms(now_ms) - 1_577_836_800_000) * 1000
    return ticks_collection().count_documents({"_id": {"$gte": tick_id(from_us, 0)}})


def market_status_write(segment: str, status: str, since_ms: int) -> bool:
    """Record a segment's status where it differs from its last one; say whether it did."""
    last = MarketStatus.objects.filter(segment=segment).order_by("-since").first()
    if last is not None and last.status == status:
        return False
    MarketStatus.objects.create(segment=segment, status=status, since=datetime.fromtimestamp(since_ms / 1000, UTC))
    return True
