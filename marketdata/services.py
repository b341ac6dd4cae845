"""What is done to stored market data on a schedule: retention, snapshots of quotes, market status. Coarser candles: `roll_up`.

Every service may be repeated, or killed half-way and repeated, without changing the outcome. One of a kind runs at a time
(the tasks hold a lock). No broker is known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from bson.datetime_ms import DatetimeMS
from django.conf import settings
from pymongo import ASCENDING, ReplaceOne
from pymongo.collection import Collection

from instruments.store import changes_collection
from marketdata import live_state, store
from marketdata.domain.candle import EPOCH_2020_MIN, MINUTE_MS
from marketdata.models import ChainSnapshot, LatestQuote, MarketStatus
from marketdata.wire import entry_pack

TTL_INDEX = "tick_received_ttl"
CHAIN_TTL_INDEX = "chain_snapshot_stored_ttl"
CHANGE_TTL_INDEX = "universe_change_recorded"


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
    return _expire(store.ticks_collection(), "r", TTL_INDEX, settings.TICK_RETENTION_DAYS if days is None else days)


def chain_retention_apply(*, days: int | None = None) -> str:
    """Do the same for option chains, from when they were stored. `days`: TRADINGOK_CHAIN_DAYS by default."""
    chains = store.collection(ChainSnapshot._meta.db_table)
    return _expire(chains, "stored_at", CHAIN_TTL_INDEX, settings.CHAIN_RETENTION_DAYS if days is None else days)


def change_retention_apply(*, days: int | None = None) -> str:
    """Do the same for changes of what is followed, by the index that they have. `days`: TRADINGOK_CHANGE_DAYS by default."""
    return _expire(changes_collection(), "recorded_at", CHANGE_TTL_INDEX, settings.CHANGE_RETENTION_DAYS if days is None else days)


def _expire(target: Collection[store.Document], field: str, name: str, days: int) -> str:
    seconds = days * 86_400
    there = target.index_information().get(name)
    if there is None:
        target.create_index([(field, ASCENDING)], name=name, expireAfterSeconds=seconds)
        return "made"
    if there.get("expireAfterSeconds") == seconds:
        return "unchanged"
    target.database.command("collMod", target.name, index={"name": name, "expireAfterSeconds": seconds})
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
