"""One option chain of a hub: its contracts, its windows, and what has moved since it was last made current. Pure but for the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

from django.conf import settings

from instruments.domain.listing import ChainListing
from marketdata.chain_series import ChainBook, ChainSeries
from marketdata.domain.chain import Chain, InterestBase, OptionQuote
from marketdata.option_quotes import option_quote
from marketdata.wire import QuoteEntry


class LiveChain:
    """A chain in use.

    Attributes:
        book: the chain and its encoded rows.
        series: its windows, followed or idle.
        keys: instrument → key, of all that moves it.
        stale: instruments with a newer quote than the chain has taken.
        is_due: whether it has to be turned for another reason.
        newest_ms: the broker's clock of the newest quote that was taken · ms UTC; 0 before the first.
        has_ended: whether trading in it has ended in market time.
        bases, bases_day: what its open interest is compared with, and which day's that is · ms UTC.
        bases_due: when that is to be read · monotonic.
    """

    def __init__(self, listing: ChainListing, encoded: Counter[str]) -> None:
        self.series: set[ChainSeries] = set()
        self.bases: dict[int, InterestBase] = {}
        self.bases_day, self.has_ended = 0, False
        self._encoded = encoded
        self.replace(listing)

    def replace(self, listing: ChainListing) -> None:
        """Begin anew, with these contracts; the windows stay."""
        self.book = ChainBook(Chain(listing, interest_rate=settings.INTEREST_RATE), self._encoded)
        self.keys = {option.instrument: option.key for option in listing.options}
        if listing.underlying_id is not None and listing.underlying_key is not None:
            self.keys[listing.underlying_id] = listing.underlying_key
        self.stale = set(self.keys)
        self.is_due, self.bases_due, self.newest_ms = True, 0.0, 0
        self.take_bases(self.bases)

    def take_bases(self, bases: dict[int, InterestBase]) -> None:
        """Compare open interest with these from now on."""
        self.bases = bases
        all_of_them = {option.instrument: bases.get(option.instrument, InterestBase()) for option in self.listing.options}
        self.is_due |= self.book.chain.take_bases(all_of_them)

    def take(self, entries: Mapping[int, QuoteEntry], unfollowed: Container[int], latest_ms: int) -> int:
        """Let the chain take the newest quotes of what has moved; what is unfollowed has none.

        Args:
            latest_ms: quotes of later wait: of a day that is still to come · ms UTC.

        Returns:
            How many quotes could not be read.
        """
        stale, self.stale, self.is_due, rejected = self.stale, set(), False, 0
        for instrument in stale:
            entry = entries.get(instrument)
            if entry is None:
                continue
            if instrument in unfollowed:
                self._apply(instrument, OptionQuote(), 0)
            elif entry.broker_ms > latest_ms:
                self.stale.add(instrument)  # a replay began, or the feed's report is on its way
            else:
                self.newest_ms = max(self.newest_ms, entry.broker_ms)
                try:
                    self._apply(instrument, option_quote(entry), entry.broker_ms)
                except ValueError:
                    rejected += 1
        return rejected

    def _apply(self, instrument: int, quote: OptionQuote, broker_ms: int) -> None:
        if instrument == self.listing.underlying_id:
            self.book.chain.take_spot(quote.last_price, broker_ms)
        else:
            self.book.chain.take(instrument, quote, broker_ms)

    def instruments(self, lowest: float, highest: float) -> frozenset[int]:
        """Return the options from one strike to another, and what they are written on."""
        found = {option.instrument for option in self.listing.options if lowest <= option.strike_price <= highest}
        return frozenset(found if self.listing.underlying_id is None else found | {self.listing.underlying_id})

    @property
    def listing(self) -> ChainListing:
        return self.book.chain.listing
