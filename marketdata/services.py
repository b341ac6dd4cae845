"""What is done to stored market data on a schedule: coarser candles, retention, snapshots of quotes, market status.

Every service may be repeated, or killed half-way and repeated, without changing the outcome. One of a kind runs at a time
(the tasks hold a lock). No broker is known here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from django.conf import settings
from pymongo import ASCENDING, InsertOne, ReplaceOne, UpdateOne

from instruments.models import Instrument
from marketdata import live_state, store
from marketdata.domain.candle import (
    EPOCH_2020_MIN,
    INTERVAL_MINUTES,
    MCX_OPEN_MS,
    MINUTE_MS,
    SESSION_OPEN_MS,
    STORED_INTERVALS,
    Anchors,
    Candle,
    candle_id,
    day_start_ms,
    fold_candles,
    interval_start_ms,
)
from marketdata.models import LatestQuote, MarketStatus
from marketdata.wire import entry_pack

ANCHORS_MS = {"MCX_FO": MCX_OPEN_MS, "MCX_INDEX": MCX_OPEN_MS, "MCX_COM": MCX_OPEN_MS}
"""Segments whose session does not open at 09:15 IST → offset of the open in the IST day."""
OVERLAP = timedelta(seconds=120)
"""The roll-up looks so far behind its watermark: a write is stamped before it is acknowledged (at most 20 s later), and a clock that
was set back stamps lower than before (the watermark is never taken as later than now)."""
CHUNK_MINUTES = 20_000
"""1-minute candles whose coarser ones are made at once; bounds memory while catching up."""
CHUNK_BUCKETS = 2_000
WATERMARKS = "marketdata_watermark"
ROLL_UP = "roll_up"
TTL_INDEX = "tick_received_ttl"


class RollUp(NamedTuple):
    """What a roll-up did.

    Attributes:
        changed: 1-minute candles that were looked at.
        written: coarser candles that were new or got other values.
        complete: False when its time ran out first; the next run goes on where it ended.
    """

    changed: int
    written: int
    complete: bool


# --- coarser candles --------------------------------------------------------------------------------------------------


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
    since = min(mark["u"].replace(tzinfo=None), now) - OVERLAP if mark else datetime(2020, 1, 1)
    found = store.candles_collection().find({"n": "1m", "u": {"$gte": since}}, {"u": 1}).sort("u", ASCENDING)
    changed = written = 0
    with found:
        while chunk := list(islice(found, CHUNK_MINUTES)):
            changed += len(chunk)
            written += candles_roll_up_minutes(candle_id_parts(row["_id"]) for row in chunk)
            marks.update_one({"_id": ROLL_UP}, {"$set": {"u": min(chunk[-1]["u"].replace(tzinfo=None), now)}}, upsert=True)
            if time.monotonic() > deadline:
                return RollUp(changed, written, complete=len(chunk) < CHUNK_MINUTES)
    return RollUp(changed, written, complete=True)


def candles_roll_up_minutes(minutes: Iterable[tuple[int, int]]) -> int:
    """Make the coarser candles that the given minutes lie in, each interval from the next finer one.

    The outcome equals `fold_candles` of the 1-minute candles: what this function writes is derived, so it replaces what
    is there whatever its state; equal values change nothing.

    Args:
        minutes: (instrument id, start in ms UTC) of 1-minute candles.

    Returns:
        Candles that were new or got other values.
    """
    touched = set(minutes)
    anchors = _anchors({instrument for instrument, _ in touched})
    written, finer = 0, "1m"
    for interval in STORED_INTERVALS[1:]:
        touched = {(i, interval_start_ms(start, interval, anchors.get(i, SESSION_OPEN_MS))) for i, start in touched}
        buckets = iter(sorted(touched))
        while chunk := list(islice(buckets, CHUNK_BUCKETS)):
            written += _write_derived(_fold_stored(chunk, finer, interval, anchors))
        finer = interval
    return written


def _fold_stored(buckets: list[tuple[int, int]], finer: str, interval: str, anchors: Mapping[int, int]) -> list[Candle]:
    """Return the candles of `buckets`, folded from the stored ones of `finer`."""
    identifiers = [
        candle_id(instrument, finer, part)
        for instrument, start in buckets
        for part in _part_starts(start, finer, interval, anchors.get(instrument, SESSION_OPEN_MS))
    ]
    rows = store.candles_collection().find({"_id": {"$in": identifiers}}).sort("_id", ASCENDING)
    folded: list[Candle] = []
    for instrument, parts in groupby(map(store.candle_from_document, rows), key=lambda candle: candle.instrument):
        folded += fold_candles(parts, interval, Anchors(anchors.get(instrument, SESSION_OPEN_MS)))
    return folded


def _part_starts(start_ms: int, finer: str, interval: str, anchor_ms: int) -> Iterator[int]:
    """Give the starts of the candles of `finer` that may lie in the one of `interval` that begins at `start_ms`."""
    day = day_start_ms(start_ms)
    return (day + offset for offset in _part_offsets(start_ms - day, finer, interval, anchor_ms))


@lru_cache(maxsize=4096)
def _part_offsets(offset_ms: int, finer: str, interval: str, anchor_ms: int) -> tuple[int, ...]:
    day = day_start_ms(EPOCH_2020_MIN * MINUTE_MS) + 86_400_000  # any day: the law is the same for all
    start = day + offset_ms
    times = (start + minute * MINUTE_MS for minute in range(INTERVAL_MINUTES[interval]))
    inside = (moment for moment in times if interval_start_ms(moment, interval, anchor_ms) == start)
    return tuple(sorted({interval_start_ms(moment, finer, anchor_ms) - day for moment in inside}))


def _write_derived(candles: list[Candle]) -> int:
    """Write derived candles that are new or differ; each other value raises the revision by one."""
    if not candles:
        return 0
    target = store.candles_collection()
    identified = {candle_id(candle.instrument, candle.interval, candle.start_ms): candle for candle in candles}
    stored = {row["_id"]: row for row in target.find({"_id": {"$in": list(identified)}})}
    now = datetime.now(UTC)
    changes: list[InsertOne[dict[str, Any]] | UpdateOne] = []
    for identifier, candle in identified.items():
        values = {
            "o": candle.open, "h": candle.high, "l": candle.low, "c": candle.close,
            "v": candle.volume, "oi": candle.open_interest, "s": candle.state,
        }  # fmt: skip
        old = stored.get(identifier)
        if old is None:
            what = {"i": candle.instrument, "n": candle.interval, "t": DatetimeMS(candle.start_ms), "rev": 0}
            changes.append(InsertOne({"_id": identifier, **what, **values, "u": now}))
        elif any(old.get(name) != value for name, value in values.items()):
            changes.append(UpdateOne({"_id": identifier}, {"$set": {**values, "u": now}, "$inc": {"rev": 1}}))
    if changes:
        target.bulk_write(changes, ordered=False)
    return len(changes)


def _anchors(instruments: set[int]) -> dict[int, int]:
    """Return the session anchor of those instruments that do not open at 09:15."""
    table = store.collection(Instrument._meta.db_table)
    wanted = {"_id": {"$in": list(instruments)}, "segment": {"$in": list(ANCHORS_MS)}}
    return {row["_id"]: ANCHORS_MS[row["segment"]] for row in table.find(wanted, {"segment": 1})}


def candle_id_parts(identifier: int) -> tuple[int, int]:
    """Return instrument and start of a candle id."""
    return identifier >> 30, ((identifier & (1 << 26) - 1) + EPOCH_2020_MIN) * MINUTE_MS


# --- retention --------------------------------------------------------------------------------------------------------


def retention_apply(*, days: int | None = None) -> str:
    """Let MongoDB delete ticks `days` days after we received them: make the TTL index, or change it where it says otherwise.

    The time is that of receipt, not the market's: a replay of last year's ticks is kept as long as today's.

    Args:
        days: TRADINGOK_TICK_DAYS by default.

    Returns:
        "made", "changed" or "unchanged".
    """
    seconds = (settings.TICK_RETENTION_DAYS if days is None else days) * 86_400
    ticks = store.ticks_collection()
    there = ticks.index_information().get(TTL_INDEX)
    if there is None:
        ticks.create_index([("r", ASCENDING)], name=TTL_INDEX, expireAfterSeconds=seconds)
        return "made"
    if there.get("expireAfterSeconds") == seconds:
        return "unchanged"
    ticks.database.command("collMod", ticks.name, index={"name": TTL_INDEX, "expireAfterSeconds": seconds})
    return "changed"


# --- latest quotes ----------------------------------------------------------------------------------------------------


def latest_quotes_store() -> int:
    """Copy the latest quotes of live_state to MongoDB, where they outlive it; an older quote never replaces a newer one.

    Returns:
        How many were newer than what was stored.

    Raises:
        live_state.Unavailable: Redis cannot be asked.
    """
    entries = live_state.quotes_read()
    if not entries:
        return 0
    target = store.collection(LatestQuote._meta.db_table)
    known = {row["_id"]: store.time_ms(row["updated_at"]) for row in target.find({"_id": {"$in": list(entries)}}, {"updated_at": 1})}
    changes = [
        ReplaceOne(
            {"_id": instrument},
            {"entry": entry_pack(entry, 0), "updated_at": DatetimeMS(entry.broker_ms)},
            upsert=True,
        )
        for instrument, entry in entries.items()
        if entry.broker_ms > known.get(instrument, -1)
    ]
    if changes:
        target.bulk_write(changes, ordered=False)
    return len(changes)


# --- market status ----------------------------------------------------------------------------------------------------


def market_status_record(reports: Mapping[str, tuple[str, int]]) -> int:
    """Record the states of segments where they differ from the last ones; a report older than the last one is left out.

    Args:
        reports: segment → (status, since when in ms UTC by the broker's clock).

    Returns:
        How many segments changed.
    """
    changed = 0
    for segment, (status, since_ms) in reports.items():
        last = MarketStatus.objects.filter(segment=segment).order_by("-since").first()
        if last is None or since_ms > store.time_ms(last.since):
            changed += store.market_status_write(segment, status, since_ms)
    return changed
