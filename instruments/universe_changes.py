"""What the universe is made from, cheap to ask each second, and its changes as they are stored. All may block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bson import ObjectId
from django.db import IntegrityError

from instruments.domain.instrument import ist_date, ms_of
from instruments.domain.succession import Held
from instruments.models import MasterLoad, SubscriptionRule, UniverseChange
from instruments.store import Document, instruments_collection
from instruments.trading_ends import trading_end_ms

_FIELDS = {
    "instrument_key": 1,
    "active": 1,
    "active_to": 1,
    "segment": 1,
    "trading_symbol": 1,
    "underlying_key": 1,
    "instrument_type": 1,
    "strike_price": 1,
    "expiry": 1,
}


class Sources(NamedTuple):
    """What has to be the same for the rules to mean the same: `master` names the newest load, `rules` is a hash of all rules."""

    master: str
    rules: int


def universe_sources() -> Sources:
    """Return what the rules are resolved from, by two small queries."""
    newest = MasterLoad.objects.order_by("-pk").values_list("pk", flat=True).first()
    rules = SubscriptionRule.objects.order_by("pk").values_list(
        "pk", "name", "what", "underlying", "expiries", "strikes", "keys", "mode", "priority", "enabled"
    )
    return Sources(str(newest or ""), hash(repr(list(rules))))


def instruments_held(keys: Iterable[str]) -> dict[str, Held]:
    """Return who holds each key now; keys that nobody holds are left out."""
    held = {"instrument_key": {"$in": list(keys)}, "active": True}
    return {each.key: each for each in _read(held, "instrument_key_tenure")}


def instruments_named(ids: Iterable[int]) -> dict[int, Held]:
    """Return these instruments, whether they hold their keys or not; unknown ids are left out."""
    return {each.id: each for each in _read({"_id": {"$in": list(ids)}}, "_id_")}


def instruments_retired(keys: Iterable[str]) -> dict[str, Held]:
    """Return who held each key last, of those that have lost theirs; keys that nobody has ever held are left out."""
    lost = {"instrument_key": {"$in": list(keys)}, "active": False}
    return {each.key: each for each in _read(lost, "instrument_key_tenure", sort=[("instrument_key", 1), ("active_from", 1)])}


def _read(query: Document, index: str, sort: Sequence[tuple[str, int]] = ()) -> list[Held]:
    ends: dict[tuple[str, datetime], int] = {}
    found = []
    for row in instruments_collection().find(query, _FIELDS, hint=index, sort=[*sort] or None, batch_size=10_000):
        segment, expiry = row["segment"], row["expiry"]
        if expiry is not None and (segment, expiry) not in ends:
            ends[segment, expiry] = trading_end_ms(segment, ist_date(ms_of(expiry)))
        found.append(
            Held(
                int(row["_id"]),
                row["instrument_key"],
                row["active"],
                None if row.get("active_to") is None else ms_of(row["active_to"]),
                segment,
                row["trading_symbol"],
                row["underlying_key"],
                row["instrument_type"],
                row["strike_price"],
                None if expiry is None else ms_of(expiry),
                None if expiry is None else ends[segment, expiry],
            )
        )
    return found


def universe_change_record(
    *,
    identifier: str,
    shard: int,
    at_ms: int,
    causes: Sequence[str],
    entered: Mapping[str, str],
    left: Mapping[str, str],
    moved: Mapping[str, str],
    by_mode: Mapping[str, int],
) -> None:
    """Store a change of what a feed follows; storing it again changes nothing.

    Args:
        identifier: its own, 24 hexadecimal digits.
        shard: the feed's number.
        at_ms: market time · ms UTC.
        causes, entered, left, moved, by_mode: as of UniverseChange.
    """
    change = UniverseChange(
        pk=ObjectId(identifier),
        at=datetime.fromtimestamp(at_ms / 1000, UTC),
        shard=shard,
        causes=list(causes),
        entered=dict(entered),
        left=dict(left),
        moved=dict(moved),
        by_mode=dict(by_mode),
    )
    try:
        change.save(force_insert=True)
    except IntegrityError:
        if not UniverseChange.objects.filter(pk=change.pk).exists():
            raise
