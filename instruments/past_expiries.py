"""What a word for an expiry meant at an earlier moment: by all contracts that are known, also those that are retired by now."""

from __future__ import annotations

from datetime import date, datetime

from instruments.chain_listing import NoSuchChain
from instruments.domain.expiry import check_expiry_word, expiries_of, resolve_expiry
from instruments.domain.instrument import OptionType, day_end, ist_date, ms_of
from instruments.store import instruments_collection
from instruments.trading_ends import trading_end_ms


def expiry_at(underlying: str, word: str, at: datetime) -> date:
    """Return the expiry of an underlying's options that a word meant then, or that a date names.

    Contracts that were listed only later count as well: they come behind what was nearest then.

    Args:
        word: @w0, @m1 … or YYYY-MM-DD.
        at: market time (aware).

    Raises:
        NoSuchChain: no options of such an underlying, or not of such an expiry, are known; not worth a retry.
        ValueError: it is no expiry word.
    """
    check_expiry_word(word)
    first = ist_date(ms_of(at)) if word.startswith("@") else min(ist_date(ms_of(at)), date.fromisoformat(word))
    known = {
        "active": {"$in": [True, False]},
        "underlying_symbol": underlying,
        "instrument_type": {"$in": [each.value for each in OptionType]},
        "expiry": {"$gte": day_end(first)},
    }
    what = {"_id": {"segment": "$segment", "expiry": "$expiry", "weekly": "$weekly"}}
    found = [row["_id"] for row in instruments_collection().aggregate([{"$match": known}, {"$group": what}], hint="instrument_chain")]
    if not found:
        raise NoSuchChain(f"no options of {underlying[:40]!r} are known that expire on {first} or later", "underlying")
    segment = min(row["segment"] for row in found)
    flags = [(ms_of(row["expiry"]), row["weekly"]) for row in found if row["segment"] == segment]
    at_ms = ms_of(at) if word.startswith("@") else 0
    listed = expiries_of(flags, now_ms=at_ms, segment=segment, end_of=trading_end_ms)
    meant = resolve_expiry(word, listed)
    if meant is None:
        nearest = ", ".join(expiry.date.isoformat() for expiry in listed if expiry.date >= ist_date(ms_of(at)))
        raise NoSuchChain(f"{underlying} has no options of expiry {word}; there are {nearest[:90] or 'none'}", "expiry")
    return meant.date
