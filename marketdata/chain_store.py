"""Option chains at rest: one of each followed chain a minute of market time, read back by minute.

A minute's snapshot is what was known when the minute had just begun, as far as the task ran then; the first one stays. Prices come in
columns, packed by msgpack and zstandard: 13 kB for 240 contracts (docs/decisions/0045). The whole's figures stand beside them by name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import zstandard
from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection

from marketdata import store
from marketdata.domain.candle import DAY_MS, MINUTE_MS, day_start_ms
from marketdata.domain.chain_rows import SIDE_COLUMNS, Aggregate, Row, Side, each_side
from marketdata.models import ChainSnapshot

INDEX = "chain_snapshot_minute"
LEVEL = 9
"""Of zstandard: an eighth smaller than its default, and still 1 ms for 500 contracts."""


class ChainView(NamedTuple):
    """One chain at one moment.

    Attributes:
        underlying: symbol · `underlying_key`: the broker's key of it, None where the master names none.
        segment: of the options.
        expiry: YYYY-MM-DD · `kind`: weekly, monthly or quarterly · `ends_ms`: when trading in it ends · ms UTC.
        market_ms: market time of the newest quote in it · ms UTC; 0 without any.
        aggregate: over all strikes.
        rows: all strikes, ascending; their stamps say nothing.
    """

    underlying: str
    underlying_key: str | None
    segment: str
    expiry: str
    kind: str
    ends_ms: int
    market_ms: int
    aggregate: Aggregate
    rows: list[Row]

    def window(self, word: str) -> list[Row]:
        """Return the strikes that a word means, as `Chain.window` does of a new chain: round the money itself."""
        count = each_side(word)
        if count is None:
            return self.rows
        money = self.aggregate.atm_strike
        prices = [row.strike_price for row in self.rows]
        middle = len(prices) // 2 if money is None else bisect_left(prices, money)
        return self.rows[max(0, middle - count) : middle + count + 1]


# --- storing ------------------------------------------------------------------------------------------------------------
def snapshot_write(view: ChainView, market_ms: int) -> bool:
    """Store a chain for the minute of `market_ms`. False: that minute is there, or the chain is as it was when last stored before it.

    Raises:
        pymongo.errors.PyMongoError: safe to repeat.
    """
    minute_ms = market_ms // MINUTE_MS * MINUTE_MS
    last = snapshot_read(view.underlying, view.expiry, minute_ms)
    if last is not None and (last.minute_ms == minute_ms or (last.view.aggregate, last.view.rows) == (view.aggregate, view.rows)):
        return False
    document = {
        "underlying": view.underlying,
        "expiry": view.expiry,
        "minute": DatetimeMS(minute_ms),
        "aggregate": view.aggregate._asdict(),
        "rows": _packed(view),
        "stored_at": datetime.now(UTC),
    }
    identifier = f"{view.underlying}:{view.expiry}:{minute_ms}"
    done = _snapshots().update_one({"_id": identifier}, {"$setOnInsert": document}, upsert=True)
    return done.upserted_id is not None


class _Packed(msgspec.Struct, array_like=True):
    """What of a chain is packed. `columns`: strike, whether a call, and a side's fields; each with one value for every listed option."""

    underlying_key: str | None
    segment: str
    kind: str
    ends_ms: int
    market_ms: int
    columns: list[list[Any]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
COLUMNS = ("strike_price", "is_call", *SIDE_COLUMNS)


def _packed(view: ChainView) -> bytes:
    options = [(row.strike_price, side is row.call, *side) for row in view.rows for side in (row.call, row.put) if side is not None]
    columns = [list(column) for column in zip(*options, strict=True)] or [[] for _ in COLUMNS]
    packed = _Packed(view.underlying_key, view.segment, view.kind, view.ends_ms, view.market_ms, columns)
    return zstandard.ZstdCompressor(level=LEVEL).compress(_encode(packed))


# --- reading ------------------------------------------------------------------------------------------------------------
class Snapshot(NamedTuple):
    """A stored chain, and the minute of market time that it is stored for · ms UTC."""

    minute_ms: int
    view: ChainView


def snapshot_read(underlying: str, expiry: str, at_ms: int) -> Snapshot | None:
    """Return the newest stored chain of the minute that `at_ms` lies in, or of one before; None where there is none.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    wanted = {"underlying": underlying, "expiry": expiry, "minute": {"$lte": DatetimeMS(at_ms)}}
    document = _snapshots().find_one(wanted, sort=[("minute", DESCENDING)], hint=INDEX)
    if document is None:
        return None
    packed = _decode(zstandard.ZstdDecompressor().decompress(document["rows"]))
    head = (packed.underlying_key, packed.segment, expiry, packed.kind, packed.ends_ms, packed.market_ms)
    view = ChainView(underlying, *head, _aggregate(document), _rows(packed.columns))
    return Snapshot(store.time_ms(document["minute"]), view)


def _rows(columns: list[list[Any]]) -> list[Row]:
    strikes: dict[float, dict[bool, Side]] = {}
    for price, is_call, *side in zip(*columns, strict=True):
        strikes.setdefault(price, {})[is_call] = Side._make(side)
    return [Row(price, 0, sides.get(True), sides.get(False)) for price, sides in strikes.items()]


def _aggregate(document: Mapping[str, Any]) -> Aggregate:
    known = document["aggregate"]
    return Aggregate._make(known.get(name) for name in Aggregate._fields)


def span_read(underlying: str, expiry: str) -> tuple[int, int] | None:
    """Return the first and the last minute of which a chain is stored, ms UTC; None where there is none."""
    wanted = {"underlying": underlying, "expiry": expiry}
    ends = [
        _snapshots().find_one(wanted, {"_id": 0, "minute": 1}, sort=[("minute", order)], hint=INDEX) for order in (ASCENDING, DESCENDING)
    ]
    first, last = ends
    return None if first is None or last is None else (store.time_ms(first["minute"]), store.time_ms(last["minute"]))


def chains_stored() -> list[tuple[str, str]]:
    """Return (underlying, expiry) of all chains of which a minute is stored; by steps along the index."""
    chains = _snapshots()
    return [(name, expiry) for name in chains.distinct("underlying") for expiry in chains.distinct("expiry", {"underlying": name})]


def days_stored(underlying: str, expiry: str) -> range:
    """Return the days (00:00 IST, ms UTC) from the first to the last minute of which a chain is stored."""
    span = span_read(underlying, expiry)
    return range(0) if span is None else range(day_start_ms(span[0]), span[1] + 1, DAY_MS)


def history_read(underlying: str, expiry: str, *, from_ms: int, to_ms: int, limit: int) -> list[tuple[int, Aggregate]]:
    """Return the figures of the stored minutes with from_ms <= minute < to_ms, oldest first: one scan of the index.

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    wanted = {"underlying": underlying, "expiry": expiry, "minute": {"$gte": DatetimeMS(from_ms), "$lt": DatetimeMS(to_ms)}}
    rows = _snapshots().find(wanted, {"_id": 0, "minute": 1, "aggregate": 1}, hint=INDEX).sort("minute", ASCENDING)
    return [(store.time_ms(row["minute"]), _aggregate(row)) for row in rows.limit(limit).batch_size(limit)]


def _snapshots() -> Collection[store.Document]:
    return store.collection(ChainSnapshot._meta.db_table)
