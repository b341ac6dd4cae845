"""Option chains put together from the latest quotes: for whoever has no hub's, and to be stored each minute.

Apart from `chain_store`, so that who only reads what is stored need not load the library of option values.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings

from instruments.chain_listing import chain_listing
from instruments.domain.listing import ChainListing
from instruments.followed_chains import chains_followed
from marketdata import live_state, store
from marketdata.calendar import calendar_read
from marketdata.chain_store import ChainView, snapshot_write
from marketdata.domain.candle import DAY_MS, MINUTE_MS, day_start_ms
from marketdata.domain.chain import Chain
from marketdata.domain.chain_rows import InterestBase
from marketdata.domain.quote import FIELDS, Quote
from marketdata.interest import bases_read
from marketdata.option_quotes import option_quote
from marketdata.selectors import tick_row
from marketdata.wire import QuoteEntry, quote_entry

LAST_TICKS = 5
"""A quote is put together of so many: a frame may lack a part of it, rarely (FACTS §3.6)."""
_BOOK = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")


def chain_view(listing: ChainListing, entries: Mapping[int, QuoteEntry], bases: Mapping[int, InterestBase]) -> ChainView:
    """Put a chain together from the latest quotes: 2 ms for 240 contracts.

    Args:
        entries: instrument → its latest quote; of the options, and of the underlying. What is missing is not known.
        bases: what open interest is compared with.
    """
    chain = Chain(listing, interest_rate=settings.INTEREST_RATE)
    chain.take_bases(bases)
    for instrument in (listing.underlying_id, *(option.instrument for option in listing.options)):
        entry = None if instrument is None else entries.get(instrument)
        if instrument is None or entry is None:
            continue
        try:
            quote = option_quote(entry)
        except ValueError:
            continue  # written by another version; the feed writes it again
        if instrument == listing.underlying_id:
            chain.take_spot(quote.last_price, entry.broker_ms)
        else:
            chain.take(instrument, quote, entry.broker_ms)
    return ChainView(
        listing.underlying,
        listing.underlying_key,
        listing.segment,
        listing.expiry.isoformat(),
        listing.kind.value,
        listing.ends_ms,
        chain.market_ms,
        chain.aggregate(),
        [row._replace(stamp=0) for row in chain.rows()],
    )


class Stored(NamedTuple):
    """What became of the followed chains: stored, there already or as before, without a quote of that day, of segments without trading."""

    stored: int = 0
    unchanged: int = 0
    empty: int = 0
    closed: int = 0


def chains_store() -> Stored:
    """Store each followed chain for the minute of market time in which the newest feed is. Nothing without a feed.

    Followed is what was so a minute before: a chain's last minute is that of its end, when nobody follows it any more.

    Raises:
        live_state.Unavailable, pymongo.errors.PyMongoError: worth a retry; what was stored stays.
    """
    market_ms = max((status.data_ms for status in live_state.statuses_read()), default=0)
    if not market_ms:
        return Stored()
    at = datetime.fromtimestamp((market_ms - MINUTE_MS) / 1000, UTC)
    chains = chains_followed(at)
    trading = [chain for chain in chains if _trades(chain.segment, market_ms)]
    stored = empty = 0
    for chain in trading:
        listing = chain_listing(chain.underlying, chain.expiry.isoformat(), at)
        entries = _entries(listing, market_ms)
        if entries:
            bases = bases_read([option.instrument for option in listing.options], day_start_ms(market_ms))
            stored += snapshot_write(chain_view(listing, entries, bases), market_ms)
        else:
            empty += 1
    return Stored(stored, len(trading) - stored - empty, empty, len(chains) - len(trading))


def _entries(listing: ChainListing, market_ms: int) -> dict[int, QuoteEntry]:
    """Return the latest quotes of a chain and its underlying; none when those of its options are all of days before.

    The feed forgets an option as trading in it ends: then its last ticks tell.
    """
    day_ms = day_start_ms(market_ms)
    keys = {option.instrument: option.key for option in listing.options}
    known = live_state.quotes_read([*keys, *([listing.underlying_id] if listing.underlying_id else [])])
    entries = {each: entry for each, entry in known.items() if entry.broker_ms < day_ms + DAY_MS}  # later: a replay has begun
    if market_ms >= listing.ends_ms:
        told = (_last_told(each, key, day_ms) for each, key in keys.items() if each not in entries)
        entries |= {entry.instrument: entry for entry in told if entry is not None}
    if max((entries[option].broker_ms for option in keys if option in entries), default=0) < day_ms:
        return {}
    return entries


def _last_told(instrument: int, key: str, day_ms: int) -> QuoteEntry | None:
    """Return an instrument's last quote of a day, by its ticks; None without any."""
    ticks = store.ticks_read(instrument, from_ms=day_ms, to_ms=day_ms + DAY_MS, limit=LAST_TICKS, newest_first=True)
    known: dict[str, Any] = {}
    for tick in reversed(ticks):
        said = {name: value for name, value in tick_row(tick).items() if value is not None}
        if not said.keys().isdisjoint(_BOOK):
            known |= dict.fromkeys(_BOOK)  # a side that the book lacks is not there
        known |= said
    if not known:
        return None
    quote = Quote(instrument)
    quote.broker_ms, quote.values = known["broker_ms"], tuple(known.get(name) for name in FIELDS)
    return quote_entry(quote, key, False)


def _trades(segment: str, market_ms: int) -> bool:
    """Whether the segment trades, or has closed within the last minute; where nobody knows, it may."""
    hours = calendar_read().hours(segment, market_ms)
    return hours is None or (hours.trades and hours.open_ms <= market_ms < hours.close_ms + MINUTE_MS)
