"""The option chain of one underlying and expiry, as data that moves. Pure.

Laws: a tick replaces one side's quote and marks its strike (`take`); what follows from several sides (forward, the money, computed
values, the whole's figures) is worked out when somebody reads, once for one state. `seq` counts changes and each strike carries the number
of its last one, so that a reader who has seen all up to a number is given what is newer: strikes that changed by reading (another money,
a volatility computed anew) are numbered then. All but computed values, windows and a forward that is held (`HOLD_MS`) depends on the last
quotes alone, not on how they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from instruments.domain.listing import ChainListing
from instruments.domain.strikes import anchored, at_the_money
from marketdata.domain.chain_figures import Parity, books_forward, chain_figures, parity_held, trades_forward
from marketdata.domain.chain_legs import Leg, Strike
from marketdata.domain.chain_rows import (
    ALL,
    MOST_EACH_SIDE,
    SIDE_COLUMNS,
    Aggregate,
    InterestBase,
    OptionQuote,
    Row,
    Side,
    check_window,
    each_side,
)
from marketdata.domain.option_values import CALL, Market, discount_factor, years_left

__all__ = [
    "ALL",
    "MOST_EACH_SIDE",
    "SIDE_COLUMNS",
    "Aggregate",
    "Chain",
    "InterestBase",
    "OptionQuote",
    "Row",
    "Side",
    "check_window",
]


class Chain:
    """The chain of one underlying and expiry.

    Attributes:
        listing: its contracts.
        seq: number of the last change of any strike or of the aggregate's inputs.
        market_ms: the newest market time that it was told · ms UTC, 0 before any.
    """

    def __init__(self, listing: ChainListing, *, interest_rate: float) -> None:
        """Args: `interest_rate`: a year's, continuous, as a fraction: discounts option prices. The broker's own greeks are made with 0."""
        self.listing = listing
        self.seq = 0
        self.market_ms = 0
        self._interest_rate = interest_rate
        self._legs: dict[int, Leg] = {}
        self._strikes: dict[float, Strike] = {}
        for option in sorted(listing.options, key=lambda option: option.strike_price):
            strike = self._strikes.setdefault(option.strike_price, Strike(option.strike_price))
            self._legs[option.instrument] = leg = Leg(option, strike)
            if option.side == CALL:
                strike.call = leg
            else:
                strike.put = leg
        self._ladder = list(self._strikes.values())
        self._spot: float | None = None
        self._forward: float | None = None
        self._parity: Parity | None = None
        self._market: Market | None = None
        self._atm: float | None = None
        self._anchor: float | None = None
        """What windows are centred on · INR."""
        self._settled = -1
        self._aggregate: tuple[int, Aggregate] | None = None

    # --- what comes in ------------------------------------------------------------------------------------------------
    def take(self, instrument: int, quote: OptionQuote, market_ms: int) -> bool:
        """Apply the newest quote of one of the chain's options; microseconds. False: nothing that a row shows has changed.

        Raises:
            KeyError: it is none of the chain's options.
        """
        leg = self._legs[instrument]
        if market_ms > self.market_ms:
            self.market_ms = market_ms
        old = leg.quote
        leg.quote = quote
        if quote[0] == old[0] and quote[2:] == old[2:]:  # all but the time of the trade
            return False
        self._mark(leg)
        return True

    def take_spot(self, price: float | None, market_ms: int) -> bool:
        """Apply the underlying's last price · INR. False: nothing has changed."""
        if market_ms > self.market_ms:
            self.market_ms = market_ms
        if price == self._spot:
            return False
        self._spot = price
        self.seq += 1
        return True

    def take_bases(self, bases: Mapping[int, InterestBase]) -> bool:
        """Apply what open interest is compared with, by instrument; others than the chain's are passed over. False: nothing has changed."""
        before = self.seq
        for instrument, base in bases.items():
            leg = self._legs.get(instrument)
            if leg is not None and base != leg.base:
                leg.base = base
                self._mark(leg)
        return self.seq != before

    def _mark(self, leg: Leg) -> None:
        self.seq += 1
        leg.side = None
        leg.strike.row = None
        leg.strike.stamp = self.seq

    # --- what is read -------------------------------------------------------------------------------------------------
    def window(self, word: str) -> tuple[float, ...]:
        """Return the strikes that a word means now, ascending: all, or those round the money (round the middle while it is not known).

        The money is here an anchor that follows the price when that is 0.75 of a strike step away (`anchored`): a price that trembles
        between two strikes moves no window, and none is more than one strike off `Aggregate.atm_strike`. A new chain's is on it.
        """
        count = each_side(word)
        prices = tuple(self._strikes)
        if count is None:
            return prices
        self._settle()
        price = self._forward or self._spot
        self._anchor = anchored(self._anchor, price, prices) if price else None
        middle = at_the_money(prices, self._anchor) if self._anchor else len(prices) // 2
        return prices[max(0, middle - count) : middle + count + 1]

    def rows(self, strikes: Iterable[float] | None = None, *, newer_than: int = -1) -> list[Row]:
        """Return strikes (all, or these), ascending, that have changed since `newer_than`; missing volatilities and greeks are computed.

        The same object is returned for a strike until it changes. Read `seq` afterwards: reading may number changes.
        """
        self._settle()
        wanted = self._ladder if strikes is None else [self._strikes[price] for price in sorted(strikes)]
        return [strike.row or strike.shown(self._atm) for strike in wanted if strike.stamp > newer_than]

    def aggregate(self) -> Aggregate:
        """Return the whole's figures, the same object until something changes; how each is made: docs/option-chain.md.

        `gamma_exposure`: Σ over calls − Σ over puts of open interest · Γ · F² · 0.01, INR of the underlying that dealers' hedges must trade
        when the price moves by 1 %, with Γ of Black's formula at the option's volatility. The sign assumes that dealers are long calls and
        short puts (above 0: hedging damps moves); nobody publishes who holds what. Open interest is in units: no lot size comes in.

        Source: S. Perfiliev, "How to calculate gamma exposure (GEX) and zero gamma level", perfiliev.co.uk, 2022; its convention is that of
            SqueezeMetrics, "Gamma Exposure", 2017.
        """
        self._settle()
        if self._aggregate is None or self._aggregate[0] != self.seq:
            money = None if self._atm is None else self._strikes[self._atm]
            self._aggregate = self.seq, chain_figures(self._ladder, money, self._spot, self._forward, self._market)
        return self._aggregate[1]

    # --- what follows from several sides ------------------------------------------------------------------------------
    def _settle(self) -> None:
        """Bring forward, money and computed values to the present state, marking the strikes that change by it."""
        if self._settled == self.seq:
            return
        years = years_left(self.listing.ends_ms, self.market_ms)
        discount = discount_factor(self._interest_rate, years)
        self._forward = self._find_forward(discount)
        self._market = Market(self._forward, years, discount) if self._forward and years else None
        self._place_money()
        for leg in self._legs.values():
            if leg.revalue(self._market, self.market_ms):
                self._mark(leg)
        self._settled = self.seq

    def _find_forward(self, discount: float) -> float | None:
        """By put-call parity: of books; where none tells, as they told a moment ago; else of last prices."""
        forward = books_forward(self._ladder, self._spot, discount)
        if forward is not None:
            self._parity = Parity(forward, self._spot, self.market_ms)
            return forward
        held = parity_held(self._parity, self._spot, self.market_ms) if self._parity else None
        return held or trades_forward(self._ladder, self._spot, discount)

    def _place_money(self) -> None:
        """Find the strike at the money; mark those whose word changes: all between the old one and the new."""
        price, old = self._forward or self._spot, self._atm
        new = min(self._strikes, key=lambda strike: abs(strike - price), default=None) if price else None
        if new == old:
            return
        self._atm = new
        for strike in self._ladder:
            if old is None or new is None or min(old, new) <= strike.price <= max(old, new):
                for leg in strike.legs():
                    self._mark(leg)
