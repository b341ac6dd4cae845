"""Which option chains the rules follow now: those of which at least one contract is followed."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

from instruments.domain.expiry import ExpiryKind, expiries_of, expiry_words
from instruments.domain.instrument import OptionType, ms_of
from instruments.selectors import followed
from instruments.store import Document, instruments_collection
from instruments.trading_ends import trading_end_ms

_OPTIONS = [each.value for each in OptionType]


class FollowedChain(NamedTuple):
    """One chain.

    Attributes:
        underlying: symbol.
        segment: of the options.
        expiry: IST day.
        words: what the expiry is called relatively (`@w0`, `@m0`), may be empty.
        ends_ms: when trading in it ends · ms UTC.
        options: listed contracts, calls and puts.
        followed: how many of these the rules follow.
    """

    underlying: str
    segment: str
    expiry: date
    kind: ExpiryKind
    words: list[str]
    ends_ms: int
    options: int
    followed: int


def chains_followed(at: datetime) -> list[FollowedChain]:
    """List the living chains that the rules follow, by underlying and expiry. `at`: market time (aware).

    Raises:
        pymongo.errors.PyMongoError: worth a retry.
    """
    return chains_with(followed(at).ids, at)


def chains_with(ids: list[int], at: datetime) -> list[FollowedChain]:
    """List the living chains of which there are options among these instruments; `followed` counts those."""
    known: dict[str, dict[str, list[Document]]] = {}
    for row in _counted(ids):
        known.setdefault(row["_id"]["underlying"], {}).setdefault(row["_id"]["segment"], []).append(row)
    found = []
    for underlying, by_segment in sorted(known.items()):
        segment = min(by_segment)
        found += [chain for chain in _chains(underlying, segment, by_segment[segment], at) if chain.followed]
    return found


def _chains(underlying: str, segment: str, rows: list[Document], at: datetime) -> list[FollowedChain]:
    flags = [(ms_of(row["_id"]["expiry"]), row["_id"]["weekly"]) for row in rows]
    living = expiries_of(flags, now_ms=ms_of(at), segment=segment, end_of=trading_end_ms)
    words = expiry_words(living)
    found = []
    for expiry in living:
        members = [row for row in rows if ms_of(row["_id"]["expiry"]) == expiry.expiry_ms]
        options, chosen = (sum(row[name] for row in members) for name in ("options", "followed"))
        ends_ms = trading_end_ms(segment, expiry.date)
        found.append(FollowedChain(underlying, segment, expiry.date, expiry.kind, words[expiry.date], ends_ms, options, chosen))
    return found


def _counted(ids: list[int]) -> list[Document]:
    """Count the listed and the followed options of each expiry of the underlyings concerned."""
    options = {"instrument_type": {"$in": _OPTIONS}, "expiry": {"$ne": None}}
    instruments = instruments_collection()
    underlyings = instruments.distinct("underlying_symbol", {"_id": {"$in": ids}} | options)
    what = {name: f"${name}" for name in ("segment", "expiry", "weekly")} | {"underlying": "$underlying_symbol"}
    is_followed = {"$cond": [{"$in": ["$_id", ids]}, 1, 0]}
    steps = [
        {"$match": {"active": True, "underlying_symbol": {"$in": underlyings}} | options},
        {"$group": {"_id": what, "options": {"$sum": 1}, "followed": {"$sum": is_followed}}},
    ]
    return list(instruments.aggregate(steps, hint="instrument_chain")) if underlyings else []
