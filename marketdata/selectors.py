"""What is read of the market for the API: ticks and candles by name, gaps, market status, counts. Reads only; by PyMongo."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from pymongo import DESCENDING, timeout
from pymongo.errors import PyMongoError

from marketdata import store
from marketdata.calendar import calendar_read as calendar_read
from marketdata.domain.candle import (
    INTERVAL_MINUTES,
    MINUTE_MS,
    Candle,
    candle_id,
    day_start_ms,
    interval_start_ms,
)
from marketdata.domain.tick import EPOCH_2020_US, TickKind, tick_id
from marketdata.models import Gap, MarketStatus

Row = dict[str, Any]

TICK_COLUMNS = (
    "id", "broker_ms", "received_ms", "kind", "last_trade_ms", "last_price", "last_quantity", "previous_close", "volume",
    "average_traded_price", "open_interest", "implied_volatility", "delta", "theta", "gamma", "vega", "rho", "bid_price", "bid_quantity",
    "ask_price", "ask_quantity", "total_buy_quantity", "total_sell_quantity",
)  # fmt: skip
"""A tick's fields in the API, in order."""
_STORED = ("p", "q", "c", "v", "a", "oi", "iv", "d", "th", "g", "ve", "rh", "bp", "bq", "ap", "aq", "tb", "ts")
_KINDS = {kind.value: kind.name.lower() for kind in TickKind}


def tick_row(document: Row) -> Row:
    """Return a stored tick with the API's names. `id` is text: it is longer than JavaScript's exact integers."""
    traded = document.get("lt")
    get = document.get
    values = (
        str(document["_id"]),
        store.time_ms(document["t"]),
        store.time_ms(document["r"]),
        _KINDS[document["k"]],
        None if traded is None else store.time_ms(traded),
        *(get(name) for name in _STORED),
    )
    return dict(zip(TICK_COLUMNS, values, strict=True))


def tick_rows(instrument: int, *, from_ms: int, to_ms: int, after: int | None, limit: int, newest_first: bool) -> list[Row]:
    """Return ticks of one instrument with the API's names, in order of broker's time; see `store.ticks_read`."""
    found = store.ticks_read(instrument, from_ms=from_ms, to_ms=to_ms, after=after, limit=limit, newest_first=newest_first)
    return [tick_row(document) for document in found]


def candles_of(instrument: int, interval: str, *, from_ms: int, to_ms: int, limit: int, newest_first: bool) -> list[Candle]:
    """Return whole candles with from_ms <= start < to_ms: those that a limit or an edge would cut are read to their end.

    A candle that began before `from_ms` is left out.
    """
    first = interval_start_ms(from_ms, interval)
    last = interval_start_ms(to_ms - 1, interval) + INTERVAL_MINUTES[interval] * MINUTE_MS
    found = store.candles_read(instrument, interval, from_ms=first, to_ms=last, limit=limit + 1, newest_first=newest_first)
    return [candle for candle in found if from_ms <= candle.start_ms < to_ms][:limit]


def closes_at(instruments: Iterable[int], start_ms: int) -> dict[int, float]:
    """Return the close of each instrument's 1-minute candle that began at `start_ms`; those without one are left out."""
    identifiers = [candle_id(instrument, "1m", start_ms) for instrument in instruments]
    return {row["i"]: row["c"] for row in store.candles_collection().find({"_id": {"$in": identifiers}}, {"i": 1, "c": 1})}


class SegmentStatus(NamedTuple):
    """A segment's state since a moment, ms UTC."""

    segment: str
    status: str
    since_ms: int


def market_statuses() -> list[SegmentStatus]:
    """Return the last recorded status of each segment, by name."""
    collection = store.collection(MarketStatus._meta.db_table)
    found = []
    for segment in sorted(collection.distinct("segment")):
        row = collection.find_one({"segment": segment}, sort=[("since", DESCENDING)], hint="market_status_segment")
        if row is not None:
            found.append(SegmentStatus(segment, row["status"], store.time_ms(row["since"])))
    return found


def gaps(*, from_ms: int, to_ms: int, limit: int, instrument: int | None = None) -> list[Row]:
    """Return gaps with from_ms <= start < to_ms, the newest first; of one instrument: those that name it, and those of all.

    Those that began in the same millisecond come together, so that the next page may go on below the last one's start:
    there may be a few more than `limit`.
    """
    collection = store.collection(Gap._meta.db_table)
    whose: Row = {} if instrument is None else {"instruments": {"$in": [[], instrument]}}
    span = whose | {"start": {"$gte": DatetimeMS(from_ms), "$lt": DatetimeMS(to_ms)}}
    rows = list(collection.find(span).sort("start", DESCENDING).limit(limit))
    if len(rows) == limit:
        seen = {row["_id"] for row in rows}
        rows += [row for row in collection.find(whose | {"start": rows[-1]["start"]}) if row["_id"] not in seen]
    return [_gap_row(row) for row in rows]


def _gap_row(row: Row) -> Row:
    end = row.get("end")
    return {
        "gap": str(row["_id"]),
        "from": store.time_ms(row["start"]),
        "to": None if end is None else store.time_ms(end),
        "shard": row["shard"],
        "cause": row["cause"],
        "heal_state": row["heal_state"],
        "heal_detail": row.get("heal_detail", ""),
        "candles_healed": row.get("candles_healed", 0),
        "detail": row["detail"],
        "instruments": row["instruments"],
    }


class TicksToday:
    """Counts the ticks received since 00:00 IST by the primary index, each finished stretch of time once per process.

    Not one count over the day: that reads up to 36 million index entries.
    """

    STRETCH_MS = 5 * MINUTE_MS
    BUDGET_SECONDS = 0.25

    def __init__(self) -> None:
        self._day = 0
        self._finished_ms = 0
        self._count = 0
        self._lock = threading.Lock()

    def read(self, now_ms: int) -> int | None:
        """Return the number of ticks; None while the day's earlier part is still being counted: ask again."""
        with self._lock:
            if self._day != day_start_ms(now_ms):
                self._day = self._finished_ms = day_start_ms(now_ms)
                self._count = 0
            try:
                with timeout(self.BUDGET_SECONDS):
                    while self._finished_ms + 2 * self.STRETCH_MS <= now_ms:  # the last two may still grow: a store that lags
                        self._count += _ticks_between(self._finished_ms, self._finished_ms + self.STRETCH_MS)
                        self._finished_ms += self.STRETCH_MS
                    return self._count + _ticks_between(self._finished_ms, now_ms + self.STRETCH_MS)
            except PyMongoError as error:
                if error.timeout:
                    return None
                raise


def _ticks_between(from_ms: int, to_ms: int) -> int:
    span = {"$gte": _first_id(from_ms), "$lt": _first_id(to_ms)}
    return store.ticks_collection().count_documents({"_id": span}, hint="_id_")


def _first_id(time_ms: int) -> int:
    return tick_id(time_ms * 1000 - EPOCH_2020_US, 0)


ticks_today = TicksToday()


def aware(time_ms: int) -> datetime:
    """Return ms UTC as an aware datetime."""
    return datetime.fromtimestamp(time_ms / 1000, UTC)
