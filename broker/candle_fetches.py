"""What was asked of the broker's candles before, and of which instruments there is something to ask. Reads and notes; asks nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, DESCENDING

from broker.backfill_plan import EPOCH, MORNING_MS, SETTLE_MS, Moved, Stretch, Subject, day_ms, day_of, followed_stretches
from broker.hours import AUCTION, HALF_MS, ends_trading
from broker.models import CandleFetch
from instruments.domain.instrument import INDEX_TYPE
from instruments.store import changes_collection, instruments_collection
from marketdata import store
from marketdata.domain.candle import DAY_MS, MINUTE_MS, Candle
from marketdata.domain.session import EXCHANGES
from marketdata.models import MarketStatus

EDGE_MS = 10 * MINUTE_MS
MOST_MINUTES = 31 * 1440
"""In one call: a month of a market that never closes."""


def instruments_around(hole: Stretch, days: Sequence[date]) -> set[int]:
    """Return the instruments that had candles on the days of a hole or close to its edges; where none had, on the day before with any."""
    candles = store.candles_collection()
    found = set().union(*(instruments_of(day) for day in days))
    for edge_ms in hole:
        near = {"$gte": DatetimeMS(edge_ms - EDGE_MS), "$lt": DatetimeMS(edge_ms + EDGE_MS)}
        found |= {int(instrument) for instrument in candles.distinct("i", {"n": "1m", "t": near})}
    if not found:
        before = candles.find_one({"n": "1d", "t": {"$lt": DatetimeMS(hole[0])}}, {"t": 1}, sort=[("t", DESCENDING)])
        found = set() if before is None else instruments_of(day_of(store.time_ms(before["t"])))
    return found


def instruments_of(day: date) -> set[int]:
    """Return the instruments that have a daily candle of that day."""
    rows = store.candles_collection().find({"n": "1d", "t": DatetimeMS(day_ms(day))}, {"_id": 0, "i": 1}, batch_size=10_000)
    return {int(row["i"]) for row in rows}


def subjects_read(instruments: Iterable[int], followed_now: Collection[int]) -> list[Subject]:
    """Return those instruments that still hold their key, in order of id: a key of one that has expired may mean another."""
    wanted = {"_id": {"$in": sorted(instruments)}, "active": True}
    fields = {"instrument_key": 1, "segment": 1, "cas_eligible": 1, "instrument_type": 1}
    rows = instruments_collection().find(wanted, fields, batch_size=10_000).sort("_id")
    return [
        Subject(
            int(row["_id"]),
            row["instrument_key"],
            row["segment"],
            row["_id"] in followed_now,
            bool(row.get("cas_eligible")) and row["instrument_type"] != INDEX_TYPE,
        )
        for row in rows
    ]


def minutes_stored(subject: Subject, first: date, last: date) -> list[Candle]:
    """Return the 1-minute candles of some days, oldest first."""
    return store.candles_read(subject.instrument, "1m", from_ms=day_ms(first), to_ms=day_ms(last) + DAY_MS, limit=MOST_MINUTES)


def minutes_final(hole: Stretch) -> dict[int, int]:
    """Return how many minutes of a hole each instrument has from the broker: its feed's bars, or its REST's."""
    within = {"n": "1m", "t": {"$gte": DatetimeMS(hole[0]), "$lt": DatetimeMS(hole[1])}, "s": {"$in": ["confirmed", "backfilled"]}}
    rows = store.candles_collection().aggregate([{"$match": within}, {"$group": {"_id": "$i", "minutes": {"$sum": 1}}}])
    return {int(row["_id"]): row["minutes"] for row in rows}


def followed_read(day: date, *, shard: int, shards: int) -> dict[str, list[Stretch]]:
    """Return when a feed followed each of its keys on a day, between the first and the last minute that it has of any; what is not
    recorded (see `UniverseChange`) was not followed."""
    candles = store.candles_collection()
    within = {"n": "1m", "t": {"$gte": DatetimeMS(day_ms(day)), "$lt": DatetimeMS(day_ms(day) + DAY_MS)}, "i": {"$mod": [shards, shard]}}
    edges = [candles.find_one(within, {"t": 1}, sort=[("t", order)]) for order in (ASCENDING, DESCENDING)]
    if edges[0] is None or edges[1] is None:
        return {}
    first_ms, last_ms = store.time_ms(edges[0]["t"]), store.time_ms(edges[1]["t"])
    changes = changes_collection()
    started = {"shard": shard, "causes": "start", "at": {"$lte": moment(first_ms)}}
    start = changes.find_one(started, {"at": 1}, sort=[("at", DESCENDING)]) or {"at": moment(first_ms)}
    span = {"shard": shard, "at": {"$gte": start["at"], "$lt": moment(last_ms + MINUTE_MS)}}
    rows = changes.find(span, {"at": 1, "causes": 1, "entered": 1, "left": 1}).sort([("at", ASCENDING), ("_id", ASCENDING)])
    moved = (Moved(store.time_ms(row["at"]), "start" in row["causes"], row["entered"], row["left"]) for row in rows)
    return followed_stretches(moved, (first_ms, last_ms + MINUTE_MS))


def note_id(instrument: int, day: date, *, daily: bool = False) -> int:
    """Return the id of a CandleFetch."""
    return instrument << 20 | daily << 19 | (day - EPOCH).days


def notes_read(asked: Iterable[tuple[int, date]], *, daily: bool = False) -> dict[tuple[int, date], CandleFetch]:
    """Return what is noted of (instrument, day); what was never asked is left out."""
    named = {note_id(instrument, day, daily=daily): (instrument, day) for instrument, day in asked}
    return {named[note.pk]: note for note in CandleFetch.objects.filter(pk__in=list(named))}


def settles(note: CandleFetch | None, day: date, stretch: Stretch) -> bool:
    """Whether there is nothing more to ask of a stretch's part of that day."""
    return note is not None and (bool(note.refused) or store.time_ms(note.until) >= min(stretch[1], day_ms(day) + DAY_MS))


def moment(ms: int) -> datetime:
    """Return ms UTC as an aware datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def note_write(subject: Subject, day: date, *, bars: int, now_ms: int, whole: bool, daily: bool, refused: str) -> bool:
    """Note an answer, once that is written which it mends.

    Args:
        bars: in it, of this day.
        now_ms: market time before it was asked for.
        whole: all of them are written, not those of holes alone.
        daily: it was about daily bars.
        refused: why there never will be an answer, or "".

    Returns:
        Whether the day is settled with it.
    """
    end_ms = day_ms(day) + DAY_MS
    if day >= day_of(now_ms):
        until_ms = now_ms - SETTLE_MS
    elif bars or daily or now_ms >= end_ms + MORNING_MS:
        until_ms = end_ms
    else:
        until_ms = day_ms(day)  # perhaps not the broker's last word
    values = {"instrument": subject.instrument, "day": moment(day_ms(day)), "until": moment(until_ms), "fetched_at": datetime.now(UTC)}
    values |= {"bars": bars, "refused": refused[:200]} | ({"whole": True} if whole and until_ms == end_ms else {})
    CandleFetch.objects.update_or_create(id=note_id(subject.instrument, day, daily=daily), defaults=values)
    return until_ms == end_ms


def auction_ms(segment: str, day: date) -> int | None:
    """Return when the closing auction of a segment ended its shares' trading, ms UTC, a whole minute as `TradingHours` has it; None where
    the feed has recorded none."""
    names = [name + AUCTION for name in (segment, EXCHANGES.get(segment, segment))]
    rows = MarketStatus.objects.filter(segment__in=names, since__gte=moment(day_ms(day)), since__lt=moment(day_ms(day) + DAY_MS))
    since_ms = min((store.time_ms(row.since) for row in rows if ends_trading(row.status)), default=None)
    return None if since_ms is None else (since_ms + HALF_MS) // MINUTE_MS * MINUTE_MS
