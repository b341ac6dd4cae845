"""Names of instruments in clients' commands: found in the store, or in the hub's memory while that is away."""

from __future__ import annotations

from collections.abc import Sequence

from channels.db import database_sync_to_async
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from instruments.selectors import ID_PREFIX, instrument_ids, instrument_keys
from instruments.universe_changes import instruments_named, instruments_retired
from marketdata.hub import Hub

Found = dict[str, tuple[int, str]]
"""Name → instrument id, key."""


async def resolve(names: Sequence[str], hub: Hub) -> Found:
    """Return those that exist; from the hub's memory while the database is away."""
    if not names:
        return {}
    try:
        return await database_sync_to_async(_stored, thread_sensitive=False)(names)
    except (PyMongoError, DatabaseError):
        return _remembered(names, hub)


async def resolve_with_endings(names: Sequence[str], hub: Hub, market_ms: int) -> tuple[Found, dict[str, str]]:
    """Return what `resolve` does, and name → why it cannot be followed any more: a sentence with the day.

    That is of those whose trading has ended or that the exchange lists no more, keys that nobody holds any more among them; of none
    while the database is away, which is waited for once.

    Args:
        market_ms: market time · ms UTC.
    """
    if not names:
        return {}, {}
    try:
        return await database_sync_to_async(_stored_with_endings, thread_sensitive=False)(names, market_ms)
    except (PyMongoError, DatabaseError):
        return _remembered(names, hub), {}


def _remembered(names: Sequence[str], hub: Hub) -> Found:
    entries = list(hub.entries.values())
    known = {entry.key: (entry.instrument, entry.key) for entry in sorted(entries, key=lambda entry: entry.broker_ms)}
    known |= {f"{ID_PREFIX}{entry.instrument}": (entry.instrument, entry.key) for entry in entries}
    return {name: known[name] for name in names if name in known}


def _stored_with_endings(names: Sequence[str], market_ms: int) -> tuple[Found, dict[str, str]]:
    found = _stored(names)
    return found, _endings(names, found, market_ms)


def _endings(names: Sequence[str], found: Found, market_ms: int) -> dict[str, str]:
    lost = [name for name in names if name not in found and not name.startswith(ID_PREFIX)]
    retired = instruments_retired(lost) if lost else {}
    named = instruments_named({instrument for instrument, _ in found.values()})
    held = {name: named[instrument] for name, (instrument, _) in found.items() if instrument in named}
    endings = {name: each.ending(market_ms) for name, each in (held | retired).items()}
    return {name: ending for name, ending in endings.items() if ending is not None}


def _stored(names: Sequence[str]) -> Found:
    keys = [name for name in names if not name.startswith(ID_PREFIX)]
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    found = {key: (int(instrument), key) for key, instrument in (instrument_ids(keys) if keys else {}).items()}
    names_of = instrument_keys(set(numbers.values())) if numbers else {}
    return found | {name: (number, names_of[number]) for name, number in numbers.items() if number in names_of}


def _number(name: str) -> int | None:
    digits = name[len(ID_PREFIX) :] if name.startswith(ID_PREFIX) else ""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
