"""One option of a chain, and one strike: what was last said of it, what we compute where the broker said nothing, what is shown. Pure."""

from __future__ import annotations

from typing import NamedTuple

from instruments.domain.listing import ListedOption
from marketdata.domain.chain_rows import InterestBase, OptionQuote, Row, Side
from marketdata.domain.option_values import CALL, Market, greeks, implied_volatility

FORWARD_MOVED = 0.0005
"""Part of the forward by which it must have moved for values to be computed anew at an unchanged price."""
VALUES_MS = 60_000
"""Age of computed values, in market time, at which they are computed anew."""
_PLACES = (6, 5, 8, 4, 4, 4)
"""Decimals of what we compute, in the order of `Values`."""
_NO_QUOTE = OptionQuote()
_NO_BASE = InterestBase()


class Values(NamedTuple):
    """Volatility and greeks of one option, units as in `Side`."""

    implied_volatility: float | None
    delta: float | None
    gamma: float | None
    theta: float | None
    vega: float | None
    rho: float | None


class _Valued(NamedTuple):
    """What values were computed from. `needs_middle`: the mark told no volatility, and `middle` was taken, if there was one."""

    price: float | None
    needs_middle: bool
    middle: float | None
    implied_volatility: float | None
    forward: float
    market_ms: int


class Leg:
    """One option.

    Attributes:
        option: the contract.
        quote: the newest.
        base: what its open interest is compared with.
        side: what is shown, None after a change.
    """

    __slots__ = ("_ours", "_valued", "base", "option", "quote", "side", "sign", "strike")

    def __init__(self, option: ListedOption, strike: Strike) -> None:
        self.option = option
        self.strike = strike
        self.sign = 1 if option.side == CALL else -1
        self.quote = _NO_QUOTE
        self.base = _NO_BASE
        self.side: Side | None = None
        self._ours: Values | None = None
        self._valued: _Valued | None = None

    @property
    def last_price(self) -> float | None:
        """INR; None where it never traded."""
        return self.quote.last_price or None

    @property
    def middle_price(self) -> float | None:
        """Between bid and ask, INR; None unless both are there and the bid is the lower (before the open, books are crossed)."""
        bid, ask = self.quote.bid_price, self.quote.ask_price
        return (bid + ask) / 2 if bid and ask and bid < ask else None

    @property
    def mark_price(self) -> float | None:
        """The last price, or the nearer side of the book that has left it behind, INR; None where it never traded.

        Source: how brokers mark options to the market ("mark": the last price while it lies between bid and ask).
        """
        last, bid, ask = self.last_price, self.quote.bid_price, self.quote.ask_price
        if last is None or not bid or not ask or bid >= ask:
            return last
        return min(max(last, bid), ask)

    @property
    def spread(self) -> float:
        """Ask less bid, INR; nonsense where there is no `middle_price`."""
        return (self.quote.ask_price or 0.0) - (self.quote.bid_price or 0.0)

    @property
    def values(self) -> Values:
        """Ours where the broker sent none, else the broker's."""
        if self._ours is not None:
            return self._ours
        quote = self.quote
        return Values(quote.implied_volatility or None, quote.delta, quote.gamma, quote.theta, quote.vega, quote.rho)

    @property
    def oi_change_day(self) -> float | None:
        """Open interest against the day's first · units."""
        return _less(self.quote.open_interest, self.base.day_start)

    @property
    def oi_change_close(self) -> float | None:
        """Open interest against the previous trading day's last · units."""
        return _less(self.quote.open_interest, self.base.previous_close)

    def revalue(self, market: Market | None, market_ms: int) -> bool:
        """Compute what the broker did not send, if it is due: another price or volatility, FORWARD_MOVED, or VALUES_MS gone.

        Greeks are at the broker's volatility where there is one, else at that of `mark_price`; where that has none (below what the option
        is worth at least now, or no trade at all), at that of the middle between bid and ask.

        Args:
            market: None where nothing can be valued.
            market_ms: market time · ms UTC.

        Returns:
            whether the values are others now.
        """
        quote, old, was = self.quote, self._ours, self._valued
        if quote.implied_volatility and None not in (quote.delta, quote.theta, quote.gamma, quote.vega, quote.rho):
            self._ours = self._valued = None
            return old is not None
        forward = 0.0 if market is None else market.forward
        if (
            was is not None
            and was.price == self.mark_price
            and not (was.needs_middle and was.middle != self.middle_price)
            and was.implied_volatility == quote.implied_volatility
            and abs(forward - was.forward) <= FORWARD_MOVED * was.forward
            and market_ms - was.market_ms < VALUES_MS
        ):
            return False
        volatility = quote.implied_volatility or self._volatility_at(self.mark_price, market)
        needs_middle = not volatility
        if needs_middle:
            volatility = self._volatility_at(self.middle_price, market)
        self._valued = _Valued(self.mark_price, needs_middle, self.middle_price, quote.implied_volatility, forward, market_ms)
        self._ours = self._computed(volatility, market)
        return self._ours != old

    def _volatility_at(self, price: float | None, market: Market | None) -> float | None:
        if price is None or market is None:
            return None
        return implied_volatility(self.option.side, self.option.strike_price, price, market)

    def _computed(self, volatility: float | None, market: Market | None) -> Values | None:
        found = greeks(self.option.side, self.option.strike_price, volatility, market) if volatility and market else None
        if found is None:
            return None
        return Values(
            *(None if value is None else round(value, places) for value, places in zip((volatility, *found), _PLACES, strict=True))
        )

    def shown(self, atm: float | None) -> Side:
        """What is shown of it, with the money at the strike `atm`; the same object until `side` is cleared."""
        if self.side is None:
            quote, option, values = self.quote, self.option, self.values
            change = percent = None
            if quote.last_price is not None and quote.previous_close:
                change = round(quote.last_price - quote.previous_close, 4)
                percent = round(change / quote.previous_close * 100, 2)
            self.side = Side(
                option.instrument,
                option.key,
                quote.last_price,
                change,
                percent,
                quote.bid_price,
                quote.bid_quantity,
                quote.ask_price,
                quote.ask_quantity,
                quote.volume,
                quote.open_interest,
                self.oi_change_day,
                self.oi_change_close,
                *values,
                self._ours is not None,
                self._moneyness(atm),
            )
        return self.side

    def _moneyness(self, atm: float | None) -> str | None:
        if atm is None:
            return None
        if self.option.strike_price == atm:
            return "atm"
        return "itm" if (atm - self.option.strike_price) * self.sign > 0 else "otm"


class Strike:
    """One strike. `stamp`: number of its last change · `row`: what is shown, None after a change."""

    __slots__ = ("call", "price", "put", "row", "stamp")

    def __init__(self, price: float) -> None:
        self.price = price
        self.stamp = 0
        self.row: Row | None = None
        self.call: Leg | None = None
        self.put: Leg | None = None

    def legs(self) -> list[Leg]:
        """Those of the two that are listed, the call first."""
        return [leg for leg in (self.call, self.put) if leg is not None]

    def shown(self, atm: float | None) -> Row:
        """What is shown of it; the same object until `row` is cleared."""
        if self.row is None:
            call, put = (None if leg is None else leg.shown(atm) for leg in (self.call, self.put))
            self.row = Row(self.price, self.stamp, call, put)
        return self.row


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base
