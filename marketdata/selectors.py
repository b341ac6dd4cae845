"""What is read of the market for the API: ticks and candles by name, gaps, market status, counts. Reads only; by PyMongo."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from django.conf import settings
from pymongo import DESCENDING, timeout
from pymongo.errors import PyMongoError

from marketdata import store
from marketdata.calendar import calendar_read as calendar_read
from marketdata.domain.candle import (
    DAY_MS,
    INTERVAL_MINUTES,
    MINUTE_MS,
    STORED_INTERVALS,
    Anchors,
    Candle,
    candle_id,
    day_start_ms,
    fold_candles,
)
from marketdata.domain.chart import (
    best_of,
    bucket_end_ms,
    bucket_start_ms,
    doubted,
    doubtful_starts,
    in_session,
    live_marked,
    silences_filled,
    with_newer,
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
EVER_MS = 1 << 62
LATE_MS = 60 * MINUTE_MS
"""Minutes so much older than the newest rolled-up candle may still be corrected before the roll-up comes again."""
LONGEST_GAP_MS = 40 * DAY_MS
"""As parity has it: what began longer ago is looked for no more."""
MOST_MINUTES = 500_000
"""Five years of one instrument: only where nothing was rolled up yet."""
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


def candles_of(
    instrument: int,
    interval: str,
    *,
    from_ms: int,
    to_ms: int,
    limit: int,
    newest_first: bool,
    segment: str,
    market_ms: int = EVER_MS,
    recent: Iterable[Candle] = (),
    fill: bool = False,
) -> list[Candle]:
    """Return one instrument's candles with from_ms <= start < to_ms, finished ones and the one that forms, inside sessions only.

    Intervals that are not stored are folded from the nearest finer one that is. What is newest is folded from its minutes, whether the
    roll-up has been there or not. Each candle is whole, whatever the limit and the edges; one that began before `from_ms` is left out.
    One longer than a minute that a gap lies in, not healed, is "closed" at most: minutes of it may be missing.

    Args:
        interval: one of INTERVAL_MINUTES.
        limit: candles at the most.
        segment: of the instrument: from where its intervals are counted, and when it trades.
        market_ms: market time: what has not ended then is "live"; without it, everything has ended.
        recent: the feed's newest 1-minute candles, which may not be stored yet.
        fill: put flat candles, state "filled", where nobody traded; see `silences_filled`.

    Returns:
        The oldest first, or the newest when asked.

    Raises:
        KeyError: unknown interval.
        pymongo.errors.PyMongoError: worth a retry.
    """
    calendar = calendar_read()
    anchors = calendar.anchors(segment)
    base = [name for name in STORED_INTERVALS if INTERVAL_MINUTES[interval] % INTERVAL_MINUTES[name] == 0][-1]
    low = bucket_start_ms(from_ms, interval, anchors)
    high = bucket_end_ms(bucket_start_ms(to_ms - 1, interval, anchors), interval, anchors)
    if fill:  # what a silence follows, and what ends it, may lie outside of the span
        low, high = min(low, day_start_ms(from_ms)), max(high, day_start_ms(to_ms - 1) + DAY_MS)
    minutes = best_of(minute for minute in recent if low <= minute.start_ms < high)
    if base != "1m":
        minutes = _newest_minutes(instrument, base, low, high, minutes, anchors)
    minutes = list(in_session(minutes, segment, calendar))
    newer = minutes if base == "1m" else fold_candles(minutes, base, anchors)
    a_day = INTERVAL_MINUTES["1d"] // INTERVAL_MINUTES[base]
    wanted = (limit + 1) * (INTERVAL_MINUTES[interval] // INTERVAL_MINUTES[base]) + (a_day if fill else 0)
    parts: list[Candle] = []
    while len(parts) < wanted:  # again where some lie outside of sessions
        stored = store.candles_read(instrument, base, from_ms=low, to_ms=high, limit=wanted, newest_first=newest_first)
        more = len(stored) == wanted
        edge = stored[-1].start_ms if more else low if newest_first else high
        beside = [part for part in newer if (edge <= part.start_ms < high if newest_first else low <= part.start_ms <= edge)]
        found = list(in_session(with_newer(stored, beside), segment, calendar))
        parts = [*found, *parts] if newest_first else [*parts, *found]
        if not more:
            break
        low, high = (low, edge) if newest_first else (edge + MINUTE_MS, high)
    candles = parts if base == interval else fold_candles(parts, interval, anchors)
    if candles and interval != "1m":
        holes = holes_read(instrument, candles[0].start_ms, bucket_end_ms(candles[-1].start_ms, interval, anchors))
        sure = {part.start_ms for part in parts if part.state == "confirmed"} if base == "1d" else ()
        doubtful = doubtful_starts(holes, interval, segment, calendar, sure_days=sure)
        candles = [doubted(candle, doubtful) for candle in candles] if doubtful else candles
    seen = parts if base == "1m" else minutes
    known_ms = max((part.start_ms + (part.state != "live") * MINUTE_MS for part in seen), default=0)
    candles = live_marked(candles, segment, calendar, max(market_ms, known_ms))
    if fill:
        given = silences_filled(candles, segment, calendar, market_ms, newest_first=newest_first)
    else:
        given = iter(candles[::-1] if newest_first else candles)
    return list(islice((candle for candle in given if from_ms <= candle.start_ms < to_ms), limit))


def _newest_minutes(instrument: int, base: str, low: int, high: int, recent: list[Candle], anchors: Anchors) -> list[Candle]:
    """Return the minutes from which the newest candles of a stored interval are made: the roll-up may not have seen them all.

    They begin LATE_MS before the newest candle that is stored, and with the bucket before it at the latest.
    """
    newest = store.candle_newest_ms(instrument, base)
    if newest is not None:
        first = min([newest - LATE_MS, bucket_start_ms(newest, base, anchors) - 1, *(minute.start_ms for minute in recent)])
        low = max(low, bucket_start_ms(first, base, anchors))
    if low >= high:
        return []
    stored = store.candles_read(instrument, "1m", from_ms=low, to_ms=high, limit=MOST_MINUTES)
    return best_of([*stored, *recent])


def closes_at(instruments: Iterable[int], start_ms: int) -> dict[int, tuple[float, float | None]]:
    """Return close and open interest of each instrument's 1-minute candle that began at `start_ms`, else of the day's last one before it.

    Two queries: the second, 0.1 to 0.3 ms an instrument, is for those that were quiet in that very minute. Those that were quiet all day
    until then are left out.
    """
    candles, fields = store.candles_collection(), {"i": 1, "c": 1, "oi": 1}
    named = {candle_id(instrument, "1m", start_ms): instrument for instrument in instruments}
    found = list(candles.find({"_id": {"$in": list(named)}}, fields, batch_size=10_000))
    quiet = named.keys() - {row["_id"] for row in found}
    of_day: list[Row] = [{"low": candle_id(named[last], "1m", day_start_ms(start_ms)), "high": last} for last in quiet]
    between = {"$and": [{"$gte": ["$_id", "$$low"]}, {"$lt": ["$_id", "$$high"]}]}
    newest: list[Row] = [{"$match": {"$expr": between}}, {"$sort": {"_id": DESCENDING}}, {"$limit": 1}, {"$project": fields}]
    names = {"low": "$low", "high": "$high"}
    look_up = {"$lookup": {"from": candles.name, "let": names, "pipeline": newest, "as": "newest"}}
    stages: list[Row] = [{"$documents": of_day}, look_up, {"$unwind": "$newest"}, {"$replaceRoot": {"newRoot": "$newest"}}]
    before = candles.database.aggregate(stages, batchSize=10_000) if quiet else ()
    return {row["i"]: (row["c"], row.get("oi")) for row in (*found, *before)}


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
    whose: Row = {} if instrument is None else _concerning(instrument)
    span = whose | {"start": {"$gte": DatetimeMS(from_ms), "$lt": DatetimeMS(to_ms)}}
    rows = list(collection.find(span).sort("start", DESCENDING).limit(limit))
    if len(rows) == limit:
        seen = {row["_id"] for row in rows}
        rows += [row for row in collection.find(whose | {"start": rows[-1]["start"]}) if row["_id"] not in seen]
    return [_gap_row(row) for row in rows]


def holes_read(instrument: int, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """Return the gaps of an instrument that are not healed and touch [from_ms, to_ms), as whole minutes within it, ms UTC."""
    started = {"$gte": DatetimeMS(from_ms - LONGEST_GAP_MS), "$lt": DatetimeMS(to_ms)}
    within = {"heal_state": {"$in": [Gap.Heal.OPEN, Gap.Heal.IMPOSSIBLE]}, "start": started}
    rows = store.collection(Gap._meta.db_table).find(within | _concerning(instrument), {"start": 1, "end": 1}, hint="gap_heal")
    spans = [(store.time_ms(row["start"]), to_ms if row.get("end") is None else store.time_ms(row["end"])) for row in rows]
    holes = [(max(start // MINUTE_MS * MINUTE_MS, from_ms), min(-(-end // MINUTE_MS) * MINUTE_MS, to_ms)) for start, end in spans]
    return [hole for hole in holes if hole[0] < hole[1]]


def _concerning(instrument: int) -> Row:
    """Return the query for gaps that name an instrument, and those of all of its shard."""
    return {"$or": [{"instruments": instrument}, {"instruments": [], "shard": instrument % settings.FEED_SHARDS}]}


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
