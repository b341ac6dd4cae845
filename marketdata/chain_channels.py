"""The option chains of one hub: a Chain for each underlying and expiry that somebody follows, and a ChainSeries for each channel.

A quote only notes that its option has moved; each half second a chain takes the newest quotes of what has moved, and all its windows
are made current at once. So a busy chain costs as much as its strikes, not its ticks. What the hub knew before a chain was opened is
taken at the opening; after a loss the hub's newer entries move the chain as ticks do.

Listings are read in a thread: at the opening, when a word's expiry has ended in market time, when the universe has changed, and every
few minutes. Contracts in a followed window, a few beside it, and what they are written on are demanded from the feed for as long as
somebody follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime

from channels.db import database_sync_to_async
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from instruments.chain_listing import NoSuchChain, chain_listing
from instruments.domain.listing import ChainListing
from marketdata.chain_live import LiveChain
from marketdata.chain_series import ChainSeries
from marketdata.commands import ChainChannel
from marketdata.domain.candle import day_start_ms
from marketdata.interest import bases_read
from marketdata.outbox import Outbox
from marketdata.wire import QuoteEntry

logger = logging.getLogger(__name__)

CHAIN_SECONDS = 0.5
"""Clients are told of a chain so often at the most."""
REFRESH_SECONDS = 300.0
"""Listings, and what open interest is compared with, are read again so often."""
BASES_SECONDS = 60.0
"""The latter while some are not known."""
RETRY_SECONDS = 2.0
IDLE_SECONDS = 60.0
IDLE_MAX = 200
"""A window that nobody has followed for so long is dropped, and the oldest of more than so many."""
SPARE_STRIKES = 2
"""So many strikes on each side of a window are demanded too: the money that goes to and fro asks nothing of the broker."""
BACK_MS = 3_600_000
"""Market time that is so much earlier than before is another day's."""

Word = tuple[str, str]
"""Underlying, and what was asked as its expiry: @w0, or a date."""


class ChainChannels:
    """All chains of one event loop.

    Args:
        entries: instrument id → newest quote; read, never changed.
        unfollowed: instruments whose newest quote counts no more; the same, and `mark` is called for what comes into it.
        market_ms: market time · ms UTC.
        wake: called with outboxes that have been given something.
        want: called with instruments that a channel demands from now on, and with those that it demands no more.
    """

    def __init__(
        self,
        entries: Mapping[int, QuoteEntry],
        unfollowed: Container[int],
        market_ms: Callable[[], int],
        wake: Callable[[Iterable[Outbox]], None],
        want: Callable[[Iterable[int], Iterable[int]], None],
    ) -> None:
        self._entries, self._unfollowed, self._market_ms, self._wake, self._want = entries, unfollowed, market_ms, wake, want
        self._chains: dict[tuple[str, date], LiveChain] = {}
        self._words: dict[Word, LiveChain] = {}
        self._read_at: dict[Word, float] = {}  # when its listing was read, or tried to be · monotonic
        self._until_ms: dict[Word, float] = {}  # market time at which it may mean another expiry
        self._of: dict[int, set[LiveChain]] = {}  # instrument → the chains that it moves
        self._series: dict[ChainChannel, ChainSeries] = {}
        self._followers: dict[ChainSeries, set[Outbox]] = {}
        self._wanted: dict[ChainSeries, frozenset[int]] = {}
        self._idle: dict[ChainSeries, float] = {}
        self._opening: dict[Word, asyncio.Task[tuple[ChainListing, float]]] = {}
        self._changed = asyncio.Event()
        self._is_failing = False
        self._known_ms = 0
        self.counts: Counter[str] = Counter(chain_rows_encoded_total=0, chain_pushes_encoded_total=0, chain_quotes_rejected_total=0)

    def __len__(self) -> int:
        """Return how many chains there are."""
        return len(self._chains)

    # --- who follows ----------------------------------------------------------------------------------------------------
    async def follow(self, outbox: Outbox, channel: ChainChannel) -> ChainSeries:
        """Let a client follow a channel; it is owed the whole. It is not woken: the reply goes out first.

        Raises:
            NoSuchChain: there is none; not worth a retry.
            pymongo.errors.PyMongoError, django.db.DatabaseError: it is not open yet, and the store is away; worth a retry.
        """
        word = (channel.underlying, channel.expiry)
        if word not in self._words:
            listing, until_ms = await self._first_listing(word)
            if word not in self._words:  # nobody else who waited for it was first
                self._place(word, listing, until_ms)
        live = self._words[word]
        series = self._series.get(channel)
        if series is None:
            series = self._series[channel] = ChainSeries(channel)
            self._followers[series], self._wanted[series] = set(), frozenset()
            live.series.add(series)
        was_followed, is_followed = any(self._followers[each] for each in live.series), bool(self._followers[series])
        self._followers[series].add(outbox)
        self._idle.pop(series, None)
        outbox.follow_chain(series)
        if not was_followed:
            self._turn(live)  # at once
        elif not is_followed:
            live.is_due = True
        self._changed.set()
        return series

    def unfollow(self, outbox: Outbox, series: ChainSeries) -> bool:
        """Let a client follow a channel no more. False: it did not."""
        outboxes = self._followers.get(series)
        if outboxes is not None and outbox in outboxes:
            outboxes.discard(outbox)
            if not outboxes:
                self._demand(series, frozenset())
                series.leave()
                self._idle[series] = time.monotonic()
                if len(self._idle) > IDLE_MAX:
                    self._drop(next(iter(self._idle)))
        return outbox.unfollow_chain(series)

    def _drop(self, series: ChainSeries) -> None:
        del self._series[series.channel], self._followers[series], self._wanted[series], self._idle[series]
        word = (series.channel.underlying, series.channel.expiry)
        live = self._words[word]
        live.series.discard(series)
        if all((each.channel.underlying, each.channel.expiry) != word for each in live.series):
            del self._words[word], self._read_at[word], self._until_ms[word]
            self._forget(live)

    def _forget(self, live: LiveChain) -> None:
        """Drop a chain if no word means it any more."""
        if live not in self._words.values():
            del self._chains[live.listing.underlying, live.listing.expiry]
            self._index(live, live.keys, ())

    def _index(self, live: LiveChain, gone: Collection[int], come: Collection[int]) -> None:
        for instrument in gone:
            self._of[instrument].discard(live)
            if not self._of[instrument]:
                del self._of[instrument]
        for instrument in come:
            self._of.setdefault(instrument, set()).add(live)

    def _demand(self, series: ChainSeries, wanted: frozenset[int]) -> None:
        before, self._wanted[series] = self._wanted[series], wanted
        if wanted != before:
            self._want(wanted - before, before - wanted)

    def concerned(self, outbox: Outbox, instruments: set[int]) -> set[int]:
        """Return those of the instruments that a client follows by its chains."""
        return {each for series in outbox.chains for each in self._wanted[series] & instruments}

    def followed(self) -> Iterator[tuple[ChainSeries, frozenset[int], set[Outbox]]]:
        """Yield each channel that is followed, the instruments that it wants, none once trading has ended, and its followers."""
        for series, outboxes in self._followers.items():
            if outboxes:
                yield series, self._wanted[series], outboxes

    def key_of(self, instrument: int) -> str | None:
        """Return the key of an instrument that moves one of the chains."""
        return next((live.keys[instrument] for live in self._of.get(instrument, ())), None)

    # --- what comes -----------------------------------------------------------------------------------------------------
    def mark(self, instrument: int) -> None:
        """Note that an instrument has a newer quote, or that its quote counts no more."""
        for live in self._of.get(instrument, ()):
            live.stale.add(instrument)

    def read_again(self) -> None:
        """Read every listing again: another master, another universe."""
        self._read_at = dict.fromkeys(self._read_at, -REFRESH_SECONDS)
        self._changed.set()

    async def turn_step(self) -> None:
        """Wait CHAIN_SECONDS, then make current whatever has moved and is followed."""
        await asyncio.sleep(CHAIN_SECONDS)
        self._pass_time(self._market_ms())
        touched: set[Outbox] = set()
        for live in self._chains.values():
            if live.stale or live.is_due:
                touched |= self._turn(live)
        self._wake(touched)

    def _pass_time(self, market_ms: int) -> None:
        """Note market time: words move on when their expiry has ended; where it goes back (a replay begins), everything begins anew."""
        was_ms, self._known_ms = self._known_ms, market_ms
        if market_ms < was_ms - BACK_MS:
            for live in self._chains.values():
                live.bases = {}
                live.replace(live.listing)
            self.read_again()
        for live in self._chains.values():
            has_ended = market_ms >= live.listing.ends_ms
            if has_ended != live.has_ended:
                live.has_ended, live.is_due = has_ended, True

    def _turn(self, live: LiveChain) -> set[Outbox]:
        """Let a chain take what has moved, and its windows too; return who has been given something."""
        windows = [series for series in live.series if self._followers[series]]
        if not windows:
            return set()
        self.counts["chain_quotes_rejected_total"] += live.take(self._entries, self._unfollowed, self._market_ms() + BACK_MS)
        touched: set[Outbox] = set()
        for series in live.book.turn(windows, live.newest_ms or self._market_ms()):
            for outbox in self._followers[series]:
                outbox.mark_chain(series)
            touched |= self._followers[series]
        for series in windows:
            self._demand(series, self._needed(live, series))
        return touched

    def _needed(self, live: LiveChain, series: ChainSeries) -> frozenset[int]:
        """Return what a window needs from the feed: nothing once trading has ended, and nothing else while what it has is enough."""
        if live.has_ended or not series.window:
            return frozenset()
        listing, wanted = live.listing, self._wanted[series]
        strikes = sorted({option.strike_price for option in listing.options})
        first, last = strikes.index(series.window[0]), strikes.index(series.window[-1])
        if live.instruments(strikes[first], strikes[last]) <= wanted:
            return wanted
        return live.instruments(strikes[max(0, first - SPARE_STRIKES)], strikes[min(len(strikes) - 1, last + SPARE_STRIKES)])

    # --- the store ------------------------------------------------------------------------------------------------------
    async def load_step(self) -> None:
        """Read what is due, or wait a second for something to be; drop what nobody has followed for long."""
        self._changed.clear()
        now = time.monotonic()
        for series in [series for series, since in self._idle.items() if now - since > IDLE_SECONDS]:
            self._drop(series)
        over = {word for word, until_ms in self._until_ms.items() if self._market_ms() >= until_ms}
        words = [word for word, at in self._read_at.items() if now - at >= (RETRY_SECONDS if word in over else REFRESH_SECONDS)]
        lives = [live for live in self._chains.values() if live.bases_due <= now or live.bases_day != self._day(live)]
        try:
            for word in words:
                await self._read(word)
            for live in lives:
                await self._read_bases(live)
            self._is_failing = False
        except (PyMongoError, DatabaseError) as error:
            if not self._is_failing:
                logger.warning("option chains cannot be read; trying on: %s", error)
            self._is_failing = True
            await asyncio.sleep(RETRY_SECONDS)
        if not words and not lives:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1)

    def _day(self, live: LiveChain) -> int:
        return day_start_ms(live.newest_ms or self._market_ms())

    async def _listing(self, word: Word) -> tuple[ChainListing, float]:
        at = datetime.fromtimestamp(self._market_ms() / 1000, UTC)
        return await database_sync_to_async(listing_read, thread_sensitive=False)(*word, at)

    async def _first_listing(self, word: Word) -> tuple[ChainListing, float]:
        """Read a listing once for all who wait for it; no chain waits for another's, and who goes takes it from nobody."""
        if word not in self._opening:
            self._opening[word] = asyncio.create_task(self._listing(word))
            self._opening[word].add_done_callback(lambda _: self._opening.pop(word))
        return await asyncio.shield(self._opening[word])

    async def _read(self, word: Word) -> None:
        if word not in self._words:
            return
        self._read_at[word] = time.monotonic()
        try:
            found = await self._listing(word)
        except NoSuchChain as error:
            logger.debug("%s stays as it is: %s", ":".join(word), error)
        else:
            if word in self._words:
                self._place(word, *found)

    def _place(self, word: Word, listing: ChainListing, until_ms: float) -> None:
        """Let a word mean this chain from now on."""
        key = (listing.underlying, listing.expiry)
        live = self._chains.get(key)
        if live is None:
            live = self._chains[key] = LiveChain(listing, self.counts)
            self._index(live, (), live.keys)
        elif live.listing != listing:
            before = live.keys
            live.replace(listing)
            self._index(live, before, live.keys)
        self._read_at.setdefault(word, time.monotonic())
        self._until_ms[word] = until_ms
        live.has_ended = self._market_ms() >= listing.ends_ms
        before_live, self._words[word] = self._words.get(word), live
        if before_live is not None and before_live is not live:
            moving = {series for series in before_live.series if (series.channel.underlying, series.channel.expiry) == word}
            before_live.series -= moving
            live.series |= moving
            live.is_due = True
            for series in moving:
                series.leave()
            self._forget(before_live)

    async def _read_bases(self, live: LiveChain) -> None:
        day_ms, chain = self._day(live), live.book.chain
        options = [option.instrument for option in live.listing.options]
        found = await database_sync_to_async(bases_read, thread_sensitive=False)(options, day_ms)
        if live.book.chain is not chain:
            return  # other contracts by now
        all_known = len(found) == len(options) and all(None not in base for base in found.values())
        live.bases_due, live.bases_day = time.monotonic() + (REFRESH_SECONDS if all_known else BASES_SECONDS), day_ms
        live.take_bases(found)


def listing_read(underlying: str, expiry: str, at: datetime) -> tuple[ChainListing, float]:
    """Return a chain's listing, and in which market time the word for its expiry may mean another: when the nearest ends · ms UTC.

    Raises:
        NoSuchChain: there is none; not worth a retry.
        pymongo.errors.PyMongoError, django.db.DatabaseError: worth a retry.
    """
    listing = chain_listing(underlying, expiry, at)
    if not expiry.startswith("@"):
        return listing, math.inf
    return listing, (listing if expiry == "@w0" else chain_listing(underlying, "@w0", at)).ends_ms
