"""What instruments were: the states that masters gave them, present, last and past, read by index.

An instrument has one state at a time: its row in Instrument from `active_from` on, its versions before. All states are read as
documents of one shape: `_id` is the instrument's id, `active` says whether it is so now.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

from instruments.models import MasterLoad
from instruments.store import Document, instruments_collection, versions_collection

STATES_MAX = 1000
"""States of one instrument, or holdings of one key, that are read; the newest."""


def is_present(moment: datetime) -> bool:
    """True when no master is newer than this moment (aware): what was in force then is so still."""
    return not MasterLoad.objects.filter(as_of__gt=moment).exists()


def is_past(moment: datetime) -> bool:
    """True when a master older than the present one was in force then (aware); not before the first load, of which nothing is known."""
    return not is_present(moment) and MasterLoad.objects.filter(as_of__lte=moment).exists()


def states_as_of(wanted: Document, moment: datetime, *, hint: str, after: int = 0, limit: int = 0) -> Iterable[Document]:
    """Give what was in force at a time, ascending by instrument.

    Args:
        wanted: conditions on the master's fields.
        moment: aware.
        hint: index of Instrument for these conditions; it ends with the times.
        after: an instrument's id; only greater ones.
        limit: how many at most; 0: all.
    """
    begun = {"active_from": {"$lte": moment}}
    ended = {"active_to": {"$gt": moment}}
    version_hint = "instrument_version_underlying" if "underlying_symbol" in wanted else "instrument_version"
    rows = ({"active": True, **begun}, {"active": False, **begun, **ended})
    found = [
        instruments_collection().find({**wanted, **state, "_id": {"$gt": after}}).sort("_id", 1).hint(hint).limit(limit) for state in rows
    ]
    versions = versions_collection().find({**wanted, **begun, **ended, "instrument": {"$gt": after}})
    past = map(_as_state, versions.sort("instrument", 1).hint(version_hint).limit(limit))
    states = merge(*found, past, key=lambda state: state["_id"])
    return islice(states, limit) if limit else states


def _as_state(version: Document) -> Document:
    return {**version, "_id": version["instrument"], "active": False, "placeholder": False}


def state_of_key(key: str, moment: datetime) -> Document | None:
    """What held a key at a time (aware), as it was then; None when nothing did."""
    begun, ended = {"instrument_key": key, "active_from": {"$lte": moment}}, {"$gt": moment}
    held = {**begun, "$or": [{"active_to": None}, {"active_to": ended}]}
    row = instruments_collection().find_one(held, sort=[("active_from", -1)], hint="instrument_key_tenure")
    return row or _version({**begun, "active_to": ended}, "instrument_version_key")


def state_of_id(instrument: int, moment: datetime) -> Document | None:
    """What an instrument was at a time (aware); None when no master named it then."""
    row = instruments_collection().find_one({"_id": instrument})
    if row is not None and row["active_from"] <= moment and (row["active_to"] is None or moment < row["active_to"]):
        return row
    return _version({"instrument": instrument, "active_from": {"$lte": moment}, "active_to": {"$gt": moment}}, "instrument_version")


def _version(wanted: Document, hint: str) -> Document | None:
    version = versions_collection().find_one(wanted, sort=[("active_to", 1)], hint=hint)
    return None if version is None else _as_state(version)


def states_of(instrument: int) -> list[Document]:
    """All states of an instrument, newest first; empty when there is no such instrument."""
    row = instruments_collection().find_one({"_id": instrument})
    found = versions_collection().find({"instrument": instrument}).sort("active_to", -1).hint("instrument_version").limit(STATES_MAX)
    return [*([] if row is None else [row]), *map(_as_state, found)]


def former_symbols() -> dict[int, tuple[str, ...]]:
    """Return the trading symbols that shares and indices had before, also those that they have again; by instrument."""
    what = {"_id": {"instrument": "$instrument", "symbol": "$trading_symbol"}}
    shares: list[Document] = [{"$match": {"underlying_symbol": None}}, {"$group": what}]
    found: dict[int, tuple[str, ...]] = {}
    for row in versions_collection().aggregate(shares, hint="instrument_version_underlying"):
        instrument, symbol = row["_id"]["instrument"], row["_id"]["symbol"]
        found[instrument] = (*found.get(instrument, ()), symbol)
    return found


class Holding(NamedTuple):
    """A time in which one instrument held a key. `state`: what it was at the end of it · `until`: None while it holds it."""

    state: Document
    since: datetime
    until: datetime | None


def holdings_of(key: str) -> list[Holding]:
    """Who held a key, and when; newest first. Empty when nobody ever did."""
    rows = instruments_collection().find({"instrument_key": key}).sort("active_from", -1).hint("instrument_key_tenure").limit(STATES_MAX)
    past = versions_collection().find({"instrument_key": key}).sort("active_to", -1).hint("instrument_version_key").limit(STATES_MAX)
    holdings: list[Holding] = []
    for state in sorted([*rows, *map(_as_state, past)], key=_newest_first):
        later = holdings[-1] if holdings else None
        if later is not None and later.state["_id"] == state["_id"] and later.since == state["active_to"]:
            holdings[-1] = later._replace(since=state["active_from"])
        else:
            holdings.append(Holding(state, state["active_from"], state["active_to"]))
    return holdings


def _newest_first(state: Document) -> Any:
    return -state["active_from"].timestamp(), not state["active"]
