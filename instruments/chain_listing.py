"""Which option chains there are, by the master."""

from __future__ import annotations

from datetime import UTC, datetime

from instruments.domain.expiry import check_expiry_word, expiries_of, resolve_expiry
from instruments.domain.instrument import OptionType, ms_of
from instruments.domain.listing import ChainListing, ListedOption
from instruments.selectors import instrument_ids
from instruments.store import instruments_collection
from instruments.trading_ends import trading_end_ms


class NoSuchChain(Exception):
    """There is no such chain. The message is for a person and says what there is; `field` is what is wrong: underlying or expiry."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def chain_listing(underlying: str, expiry: str, at: datetime) -> ChainListing:
    """Find the contracts of a chain, by the active master, on the segment that lists options of the underlying.

    Args:
        underlying: symbol as in `underlying_symbol`; upper case.
        expiry: @w0, @m1 … or YYYY-MM-DD. Words mean living expiries; a date may be one that has passed today.
        at: market time (aware).

    Raises:
        NoSuchChain: no options of such an underlying, or not of such an expiry; not worth a retry.
        ValueError: it is no expiry word; the message says which there are.
    """
    check_expiry_word(expiry)
    fields = {
        "instrument_key": 1,
        "segment": 1,
        "expiry": 1,
        "weekly": 1,
        "strike_price": 1,
        "instrument_type": 1,
        "lot_size": 1,
        "underlying_key": 1,
    }
    wanted = {
        "active": True,
        "underlying_symbol": underlying,
        "instrument_type": {"$in": [each.value for each in OptionType]},
        "expiry": {"$ne": None},
    }
    found = list(instruments_collection().find(wanted, fields, hint="instrument_chain", batch_size=10_000))
    if not found:
        raise NoSuchChain(f"no options of {underlying[:40]!r} are listed", "underlying")
    segment = min(document["segment"] for document in found)
    contracts = [document for document in found if document["segment"] == segment]
    flags = [(ms_of(document["expiry"]), document["weekly"]) for document in contracts]
    word_at_ms = ms_of(at) if expiry.startswith("@") else 0
    listed = expiries_of(flags, now_ms=word_at_ms, segment=segment, end_of=trading_end_ms)
    meant = resolve_expiry(expiry, listed)
    if meant is None:
        dates = ", ".join(each.date.isoformat() for each in listed[:8])
        raise NoSuchChain(f"{underlying} has no options of expiry {expiry}; there are {dates or 'none'}", "expiry")
    day_end = datetime.fromtimestamp(meant.expiry_ms / 1000, UTC)
    members = [document for document in contracts if document["expiry"] == day_end]
    options = [
        ListedOption(
            document["_id"], document["instrument_key"], document["strike_price"], document["instrument_type"], document["lot_size"] or 1
        )
        for document in members
    ]
    key = members[0]["underlying_key"]
    return ChainListing(
        underlying,
        key,
        None if key is None else instrument_ids([key]).get(key),
        segment,
        meant.date,
        meant.kind,
        trading_end_ms(segment, meant.date),
        sorted(options, key=lambda option: (option.strike_price, option.side)),
    )
