"""What the open interest of chains that rules or clients follow is compared with: the previous close from the broker, the day's start
from candles.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from django.conf import settings

from broker.backfill_plan import Stretch, day_of
from broker.candle_fetches import followed_read
from broker.rest_pacing import RestPacer
from broker.sessions import token_current
from broker.upstox.protocol import FeedRefused, RateLimited
from broker.upstox.rest import UpstoxRest
from instruments.chain_listing import chain_listing
from instruments.domain.instrument import ms_of
from instruments.domain.listing import ChainListing
from instruments.followed_chains import FollowedChain, chains_followed, chains_with
from instruments.selectors import market_now
from instruments.store import spots_read
from marketdata import live_state
from marketdata.calendar import calendar_read
from marketdata.domain.candle import MINUTE_MS, day_start_ms
from marketdata.domain.chain import InterestBase
from marketdata.interest import bases_write, closes_stored, firsts_of

PACE_SECONDS = 20.0
"""Longest wait for a call's turn among the broker's limits."""
OPENING_MS = 5 * MINUTE_MS
"""A first candle that begins so soon after the session's open tells the day's start: earlier trades are of these minutes."""
CLIENTS_CHAINS = 30
"""So many chains that only clients want are looked at in one run; the broker's limits are for all that asks it."""


class Fetched(NamedTuple):
    """What was done: calls to the broker, contracts with a new day's start or previous close, chains that the broker will never tell."""

    calls: int
    started: int
    closed: int
    refused: int


def interest_bases_fetch() -> Fetched:
    """Keep the day's start of each followed chain, and ask the broker for the previous close where it is not all known.

    Nothing is done before the market's day has opened: until then the broker's own day is the one before. An answer in which every
    figure is 0 (a replay has none) tells nothing; an option that an answer lacks is asked for again with its chain.

    Raises:
        BrokerError: worth a retry; what came before it is stored. pymongo.errors.PyMongoError, live_state.Unavailable: worth a retry.
    """
    at = market_now()
    day_ms = day_start_ms(ms_of(at))
    chains = [chain for chain in _chains(at) if _has_opened(chain.segment, ms_of(at))]
    listings = [chain_listing(chain.underlying, chain.expiry.isoformat(), at) for chain in chains]
    followed = _followed(day_ms)
    started = sum(bases_write(_starts(listing, day_ms, followed), day_ms) for listing in listings)
    unknown = [listing for listing in listings if listing.underlying_key and closes_stored(_ids(listing), day_ms) != _ids(listing)]
    closed = refused = 0
    pacer = RestPacer()
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        for listing in unknown:
            told = _ask(rest, pacer, listing)
            refused += told is None
            closed += bases_write(_closes(listing, told or {}), day_ms)
    return Fetched(len(unknown), started, closed, refused)


def _chains(at: datetime) -> list[FollowedChain]:
    """The rules' chains, then those that clients alone want: CLIENTS_CHAINS at the most, others each time."""
    by_rules = chains_followed(at)
    known = {(chain.underlying, chain.expiry) for chain in by_rules}
    wanted = [chain for chain in chains_with(sorted(live_state.demand_read()), at) if (chain.underlying, chain.expiry) not in known]
    return by_rules + random.sample(wanted, min(len(wanted), CLIENTS_CHAINS))


def _has_opened(segment: str, now_ms: int) -> bool:
    hours = calendar_read().hours(segment, now_ms)
    return hours is not None and hours.trades and hours.open_ms <= now_ms


def _ids(listing: ChainListing) -> set[int]:
    return {option.instrument for option in listing.options}


def _followed(day_ms: int) -> dict[str, list[Stretch]]:
    """Return when the feeds followed each key on that day, as far as that is recorded."""
    shards = spots_read().shards
    found: dict[str, list[Stretch]] = {}
    for shard in range(shards):
        found |= followed_read(day_of(day_ms), shard=shard, shards=shards)
    return found


def _starts(listing: ChainListing, day_ms: int, followed: Mapping[str, list[Stretch]]) -> dict[int, InterestBase]:
    """Return the day's starts: the open interest of a first candle near the open, or of a later one if the option was followed since.

    Such an option had not traded before, and only trades change open interest. Of any other nobody knows what came before its first
    candle. Read again what is stored already: minutes before the first one may have been healed.
    """
    hours = calendar_read().hours(listing.segment, day_ms)
    if hours is None:
        return {}
    until_ms = hours.open_ms + OPENING_MS
    firsts = firsts_of(_ids(listing), day_ms)
    late = firsts_of([each for each, (start_ms, _) in firsts.items() if start_ms >= until_ms], day_ms, telling=False)
    keys = {option.instrument: option.key for option in listing.options}
    return {
        each: InterestBase(first[1], None)
        for each, first in firsts.items()
        if each not in late or (late[each] == first and _was_followed(followed.get(keys[each], ()), until_ms, first[0]))
    }


def _was_followed(stretches: Sequence[Stretch], since_ms: int, until_ms: int) -> bool:
    return any(start <= since_ms and until_ms < end for start, end in stretches)


def _ask(rest: UpstoxRest, pacer: RestPacer, listing: ChainListing) -> dict[str, float] | None:
    """Return key → previous close; None where the broker will never tell."""
    if not pacer.acquire(PACE_SECONDS):
        raise RateLimited(f"no call to the broker could be made within {PACE_SECONDS:.0f} s: its limits are used up")
    try:
        return rest.previous_interest(listing.underlying_key or "", listing.expiry)
    except RateLimited as error:
        pacer.pause(error.retry_after)
        raise
    except FeedRefused as error:
        if not error.permanent:
            raise
        return None


def _closes(listing: ChainListing, told: Mapping[str, float]) -> dict[int, InterestBase]:
    if not any(told.values()):
        return {}
    return {option.instrument: InterestBase(None, told[option.key]) for option in listing.options if option.key in told}
