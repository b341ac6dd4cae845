"""The gaps of the store: which are to be healed, and what became of them. Repeating any of it changes nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import DESCENDING, ReturnDocument
from pymongo.collection import Collection

from marketdata import store
from marketdata.domain.candle import MINUTE_MS
from marketdata.domain.gap import GapNotice
from marketdata.models import OHLC, Gap
from marketdata.store import Document, time_ms

DETAIL_LENGTH = 200


class Filled(NamedTuple):
    """What a stretch has from the broker: back-filled 1-minute candles, and how many instruments they are of."""

    candles: int
    instruments: int


def gaps_open(*, ended_before_ms: int | None = None, limit: int = 1000) -> list[GapNotice]:
    """Return ended gaps that nobody has healed or given up, the newest first.

    Args:
        ended_before_ms: market time, ms UTC; None: those that have just ended too.
    """
    ended = {} if ended_before_ms is None else {"$lte": DatetimeMS(ended_before_ms)}
    wanted = {"heal_state": Gap.Heal.OPEN, "end": {"$ne": None} | ended}
    return [_notice(row) for row in _gaps().find(wanted).sort("start", DESCENDING).limit(limit)]


def gap_judge(gap: GapNotice, state: str, detail: str, *, shards: int = 1) -> GapNotice:
    """Record what healing came to: "healed", "impossible", or still "open". Counts an attempt, and the candles that it has now.

    Args:
        shards: how many feeds there are, each with the instruments whose id is its number mod `shards`.

    Returns:
        The gap as it is now.
    """
    filled = candles_filled(gap, shards=shards)
    changes: Document = {"heal_state": state, "heal_detail": detail[:DETAIL_LENGTH], "candles_healed": filled.candles}
    if state == Gap.Heal.HEALED:
        changes["healed_at"] = datetime.now(UTC)
    changed = _gaps().find_one_and_update(
        {"_id": ObjectId(gap.gap)}, {"$set": changes, "$inc": {"heal_attempts": 1}}, return_document=ReturnDocument.AFTER
    )
    return gap._replace(heal_state=state, heal_detail=detail, candles_healed=filled.candles) if changed is None else _notice(changed)


def gap_missing_record(*, shard: int, start_ms: int, end_ms: int, instruments: Iterable[int]) -> GapNotice:
    """Record minutes in session of which the broker had bars and we had nothing, now that they are filled.

    Instruments that missed the same minutes share a gap.

    Args:
        start_ms, end_ms: whole minutes, ms UTC.
    """
    named = {"shard": shard, "cause": Gap.Cause.MISSING, "start": DatetimeMS(start_ms), "end": DatetimeMS(end_ms)}
    first: Document = {"detail": "the broker has bars of these minutes, the feed gave nothing", "heal_attempts": 1}
    row = _gaps().find_one_and_update(
        named,
        {"$addToSet": {"instruments": {"$each": sorted(instruments)}}, "$setOnInsert": first},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    assert row is not None  # it was made where there was none
    missed = len(row["instruments"])
    candles = missed * (end_ms - start_ms) // MINUTE_MS
    changes: Document = {
        "heal_state": Gap.Heal.HEALED,
        "heal_detail": filled_text(Filled(candles, missed)),
        "candles_healed": candles,
        "healed_at": datetime.now(UTC),
    }
    _gaps().update_one({"_id": row["_id"]}, {"$set": changes})
    return _notice(row | changes)


def candles_filled(gap: GapNotice, *, shards: int = 1) -> Filled:
    """Count the back-filled minutes within a gap, of the instruments that it concerns; `shards` as of `gap_judge`."""
    start = gap.start_ms // MINUTE_MS * MINUTE_MS
    within: Document = {"n": "1m", "t": {"$gte": DatetimeMS(start), "$lt": DatetimeMS(gap.end_ms)}, "s": OHLC.State.BACKFILLED}
    within["i"] = {"$in": gap.instruments} if gap.instruments else {"$mod": [shards, gap.shard % shards]}
    counts = list(store.candles_collection().aggregate([{"$match": within}, {"$group": {"_id": "$i", "candles": {"$sum": 1}}}]))
    return Filled(sum(row["candles"] for row in counts), len(counts))


def filled_text(filled: Filled) -> str:
    """Say it to a person: "412 candles filled, 37 instruments"."""
    candles, instruments = filled
    return f"{candles} candle{'' if candles == 1 else 's'} filled, {instruments} instrument{'' if instruments == 1 else 's'}"


def _gaps() -> Collection[Document]:
    return store.collection(Gap._meta.db_table)


def _notice(row: Document) -> GapNotice:
    return GapNotice(
        gap=str(row["_id"]),
        shard=row["shard"],
        start_ms=time_ms(row["start"]),
        end_ms=time_ms(row["end"]),
        cause=row["cause"],
        heal_state=row["heal_state"],
        heal_detail=row.get("heal_detail", ""),
        instruments=[int(instrument) for instrument in row["instruments"]],
        candles_healed=row.get("candles_healed", 0),
    )
