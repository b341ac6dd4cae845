"""The option chain of one underlying and expiry, as data that moves. Pure.

Laws: a tick replaces one side's quote and marks its strike (`take`); what follows from several sides (forward, the money, computed
values, the whole's figures) is worked out when somebody reads, once for one state. `seq` counts changes and each strike carries the number
of its last one, so that a reader who has seen all up to a number is given what is newer: strikes that changed by reading (another money,
a volatility computed anew) are numbered then. All but computed values depends on the last quotes alone, not on how they came.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from instruments.domain.listing import ChainListing, ListedOption
from marketdata.domain.chain_figures import max_pain, ratio, volatility_at_delta
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
from marketdata.domain.option_values import (
    CALL,
    PARITY_STRIKES,
    Market,
    discount_factor,
    gamma_value,
    greeks,
    implied_volatility,
    parity_forward,
    years_left,
)

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

FORWARD_MOVED = 0.0005
"""Part of the forward that it must have moved by for computed values to be computed anew at an unchanged price."""
VALUES_MS = 60_000
"""Age of computed values, in market time, at which they are computed anew."""
_PARITY_AMONG = 2 * PARITY_STRIKES
"""How many strikes nearest the money parity's forward looks at."""
_GREEK_PLACES = (5, 8, 4, 4, 4)
_NO_QUOTE = OptionQuote()
_NO_BASE = InterestBase()

_Values = tuple[float | None, ...]
"""Volatility, delta, gamma, theta, vega, rho."""


class _Leg:
    """One option. `ours`: volatility and greeks that the broker did not send · `valued`: what they were computed from."""

    __slots__ = ("base", "option", "ours", "quote", "side", "strike", "valued")

    def __init__(self, option: ListedOption, strike: _Strike) -> None:
        self.option = option
        self.strike = strike
        self.quote = _NO_QUOTE
        self.base = _NO_BASE
        self.ours: _Values | None = None
        self.valued: tuple[float | None, float | None, float, int] | None = None
        self.side: Side | None = None

    def values(self) -> _Values:
        """Ours where the broker sent none; volatility, delta, gamma, theta, vega, rho."""
        if self.ours is not None:
            return self.ours
        quote = self.quote
        return (quote.implied_volatility or None, quote.delta, quote.gamma, quote.theta, quote.vega, quote.rho)


class _Strike:
    """One strike. `row`: what was read last, None after a change."""

    __slots__ = ("call", "price", "put", "row", "stamp")

    def __init__(self, price: float) -> None:
        self.price = price
        self.stamp = 0
        self.row: Row | None = None
        self.call: _Leg | None = None
        self.put: _Leg | None = None


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
        self._legs: dict[int, _Leg] = {}
        self._strikes: dict[float, _Strike] = {}
        for option in sorted(listing.options, key=lambda option: option.strike_price):
            strike = self._strikes.setdefault(option.strike_price, _Strike(option.strike_price))
            self._legs[option.instrument] = leg = _Leg(option, strike)
            if option.side == CALL:
                strike.call = leg
            else:
                strike.put = leg
        self._prices = list(self._strikes)
        self._ladder = list(self._strikes.values())
        self._spot: float | None = None
        self._forward: float | None = None
        self._market: Market | None = None
        self._atm: float | None = None
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

    # --- what is read -------------------------------------------------------------------------------------------------
    def window(self, word: str) -> tuple[float, ...]:
        """Return the strikes that a word means now, ascending: all, or those round the money (round the middle while it is not known)."""
        count = each_side(word)
        if count is None:
            return tuple(self._prices)
        self._settle()
        middle = len(self._prices) // 2 if self._atm is None else bisect_left(self._prices, self._atm)
        return tuple(self._prices[max(0, middle - count) : middle + count + 1])

    def rows(self, strikes: Iterable[float] | None = None, *, newer_than: int = -1) -> list[Row]:
        """Return strikes (all, or these), ascending, that have changed since `newer_than`; missing volatilities and greeks are computed.

        The same object is returned for a strike until it changes. Read `seq` afterwards: reading may number changes.
        """
        self._settle()
        wanted = self._ladder if strikes is None else [self._strikes[price] for price in sorted(strikes)]
        return [strike.row or self._row(strike) for strike in wanted if strike.stamp > newer_than]

    def aggregate(self) -> Aggregate:
        """Return the whole's figures; how each is made: docs/option-chain.md.

        `gamma_exposure`: Σ over calls − Σ over puts of open interest · Γ · F² · 0.01, INR of the underlying that dealers' hedges must trade
        when the price moves by 1 %, with Γ of Black's formula at the option's volatility. The sign assumes that dealers are long calls and
        short puts (above 0: hedging damps moves); nobody publishes who holds what. Open interest is in units: no lot size comes in.

        Source: Perfiliev, "How to calculate gamma exposure (GEX)", 2022; SqueezeMetrics, "Gamma Exposure", 2017, for the convention.
        """
        self._settle()
        if self._aggregate is None or self._aggregate[0] != self.seq:
            self._aggregate = self.seq, self._figures()
        return self._aggregate[1]

    # --- settling: what follows from several sides --------------------------------------------------------------------
    def _mark(self, leg: _Leg) -> None:
        self.seq += 1
        leg.side = None
        leg.strike.row = None
        leg.strike.stamp = self.seq

    def _settle(self) -> None:
        """Bring forward, money and computed values to the present state, marking the strikes that change by it."""
        if self._settled == self.seq:
            return
        years = years_left(self.listing.ends_ms, self.market_ms)
        discount = discount_factor(self._interest_rate, years)
        self._forward = self._parity(discount)
        self._market = Market(self._forward, years, discount) if self._forward and years else None
        self._place_money()
        for leg in self._legs.values():
            if self._is_due(leg):
                self._value(leg)
        self._settled = self.seq

    def _parity(self, discount: float) -> float | None:
        """The forward, by two-sided quotes where there are any, else by last prices."""
        near = self._near_money()
        quoted = [
            (strike.price, call, put)
            for strike in near
            if (call := _middle(strike.call)) is not None and (put := _middle(strike.put)) is not None
        ]
        if not quoted:
            quoted = [(strike.price, call, put) for strike in near if (call := _last(strike.call)) and (put := _last(strike.put))]
        return parity_forward(quoted[:PARITY_STRIKES], discount)

    def _near_money(self) -> list[_Strike]:
        """The strikes nearest the spot, nearest first; where there is no spot, nearest to where call and put cost the same."""
        spot = self._spot
        if not spot:
            pairs = [
                (abs(call - put), strike.price) for strike in self._ladder if (call := _last(strike.call)) and (put := _last(strike.put))
            ]
            if not pairs:
                return []
            spot = min(pairs)[1]
        middle = bisect_left(self._prices, spot)
        near = self._ladder[max(0, middle - _PARITY_AMONG) : middle + _PARITY_AMONG]
        return sorted(near, key=lambda strike: abs(strike.price - spot))[:_PARITY_AMONG]

    def _place_money(self) -> None:
        """Find the strike at the money; mark those whose word changes: all between the old one and the new."""
        price, old = self._forward or self._spot, self._atm
        new = min(self._prices, key=lambda strike: abs(strike - price)) if price and self._prices else None
        if new == old:
            return
        self._atm = new
        low, high = (self._prices[0], self._prices[-1]) if old is None or new is None else (min(old, new), max(old, new))
        for strike in self._ladder[bisect_left(self._prices, low) : bisect_left(self._prices, high) + 1]:
            for leg in (strike.call, strike.put):
                if leg is not None:
                    self._mark(leg)

    def _is_due(self, leg: _Leg) -> bool:
        """Whether the broker sent no values and ours are missing or old: another price, a moved forward, or a minute gone."""
        quote = leg.quote
        if quote.implied_volatility and None not in quote[10:]:
            leg.valued = None
            leg.ours = None
            return False
        if leg.valued is None:
            return True
        price, volatility, forward, at_ms = leg.valued
        now = self._forward or 0.0
        return (
            price != quote.last_price
            or volatility != quote.implied_volatility
            or abs(now - forward) >= FORWARD_MOVED * forward
            or self.market_ms - at_ms >= VALUES_MS
        )

    def _value(self, leg: _Leg) -> None:
        """Compute what the broker did not send of an option."""
        quote, market, found = leg.quote, self._market, None
        strike, side = leg.option.strike_price, leg.option.side
        if market is not None:
            volatility = quote.implied_volatility
            if not volatility and quote.last_price:
                volatility = implied_volatility(side, strike, quote.last_price, market)
            found = greeks(side, strike, volatility, market) if volatility else None
        leg.valued = quote.last_price, quote.implied_volatility, self._forward or 0.0, self.market_ms
        ours = None
        if found is not None and volatility:
            ours = (round(volatility, 6), *(round(value, places) for value, places in zip(found, _GREEK_PLACES, strict=True)))
        if ours != leg.ours:
            leg.ours = ours
            self._mark(leg)

    # --- what is shown ------------------------------------------------------------------------------------------------
    def _row(self, strike: _Strike) -> Row:
        strike.row = Row(strike.price, strike.stamp, self._side(strike.call), self._side(strike.put))
        return strike.row

    def _side(self, leg: _Leg | None) -> Side | None:
        if leg is None:
            return None
        if leg.side is None:
            quote, option = leg.quote, leg.option
            change = percent = None
            if quote.last_price is not None and quote.previous_close:
                change = round(quote.last_price - quote.previous_close, 4)
                percent = round(change / quote.previous_close * 100, 2)
            volatility, delta, gamma, theta, vega, rho = leg.values()
            leg.side = Side(
                option.instrument, option.key, quote.last_price, change, percent, quote.bid_price, quote.bid_quantity, quote.ask_price,
                quote.ask_quantity, quote.volume, quote.open_interest, _less(quote.open_interest, leg.base.day_start),
                _less(quote.open_interest, leg.base.previous_close), volatility, delta, gamma, theta, vega, rho, leg.ours is not None,
                self._moneyness(option),
            )  # fmt: skip
        return leg.side

    def _moneyness(self, option: ListedOption) -> str | None:
        if self._atm is None:
            return None
        if option.strike_price == self._atm:
            return "atm"
        return "itm" if (option.strike_price < self._atm) == (option.side == CALL) else "otm"

    def _figures(self) -> Aggregate:
        calls = [strike.call for strike in self._ladder if strike.call is not None]
        puts = [strike.put for strike in self._ladder if strike.put is not None]
        call_oi, put_oi = _sum(leg.quote.open_interest for leg in calls), _sum(leg.quote.open_interest for leg in puts)
        call_volume, put_volume = _sum(leg.quote.volume for leg in calls), _sum(leg.quote.volume for leg in puts)
        money = None if self._atm is None else self._strikes[self._atm]
        return Aggregate(
            spot=self._spot,
            forward=None if self._forward is None else round(self._forward, 2),
            atm_strike=self._atm,
            atm_iv=_mean(money),
            straddle=_straddle(money),
            pcr_oi=ratio(put_oi, call_oi),
            pcr_volume=ratio(put_volume, call_volume),
            max_pain=max_pain(self._prices, [_oi(strike.call) for strike in self._ladder], [_oi(strike.put) for strike in self._ladder]),
            call_oi=call_oi,
            put_oi=put_oi,
            call_volume=int(call_volume),
            put_volume=int(put_volume),
            call_oi_change_day=_known_sum(_less(leg.quote.open_interest, leg.base.day_start) for leg in calls),
            put_oi_change_day=_known_sum(_less(leg.quote.open_interest, leg.base.day_start) for leg in puts),
            call_oi_change_close=_known_sum(_less(leg.quote.open_interest, leg.base.previous_close) for leg in calls),
            put_oi_change_close=_known_sum(_less(leg.quote.open_interest, leg.base.previous_close) for leg in puts),
            iv_skew=self._skew(),
            gamma_exposure=self._gamma_exposure(),
        )

    def _skew(self) -> float | None:
        if self._atm is None:
            return None
        at = bisect_left(self._prices, self._atm)
        put = volatility_at_delta(leg.values()[1::-1] for strike in reversed(self._ladder[: at + 1]) if (leg := strike.put))
        call = volatility_at_delta(leg.values()[1::-1] for strike in self._ladder[at:] if (leg := strike.call))
        return None if put is None or call is None else round(put - call, 6)

    def _gamma_exposure(self) -> float | None:
        """See `aggregate`."""
        market = self._market
        if market is None:
            return None
        found: list[float] = []
        for leg in self._legs.values():
            volatility, interest = leg.values()[0], leg.quote.open_interest
            if volatility and interest:
                sign = 1 if leg.option.side == CALL else -1
                found.append(sign * interest * gamma_value(leg.option.strike_price, volatility, market) * 0.01)
        return float(round(sum(found))) if found else None


def _last(leg: _Leg | None) -> float | None:
    return None if leg is None else leg.quote.last_price


def _middle(leg: _Leg | None) -> float | None:
    """Between bid and ask; None unless both are there and the bid is below (before the open, books are crossed)."""
    if leg is None:
        return None
    bid, ask = leg.quote.bid_price, leg.quote.ask_price
    return (bid + ask) / 2 if bid and ask and bid < ask else None


def _oi(leg: _Leg | None) -> float:
    return 0.0 if leg is None else leg.quote.open_interest or 0.0


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value)


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(money: _Strike | None) -> float | None:
    if money is None:
        return None
    known = [volatility for leg in (money.call, money.put) if leg is not None and (volatility := leg.values()[0])]
    return round(sum(known) / len(known), 6) if known else None


def _straddle(money: _Strike | None) -> float | None:
    if money is None:
        return None
    call, put = _last(money.call), _last(money.put)
    return None if call is None or put is None else round(call + put, 4)
