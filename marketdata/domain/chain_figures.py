"""Figures of a whole chain, each from its strikes' newest quotes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from marketdata.domain.chain_legs import Strike
from marketdata.domain.chain_rows import Aggregate
from marketdata.domain.option_values import PARITY_STRIKES, Market, gamma_value, parity_forward

SKEW_DELTA = 0.25
_NEAR = 2 * PARITY_STRIKES
"""How many strikes nearest the money parity's forward looks at."""
WIDEST_BOOKS = 0.02
"""Part of the strike that the spreads of its call and put may be together for their middles to be prices: half of it is the most by which
the forward is wrong. The first orders of a day lie hundreds of INR apart."""
TOGETHER_MS = 300_000
"""Last prices tell a forward where neither trade is older than this before the chain's newest: others are of another time of the day, or of
another day; with them it was 3.6 % off the spot, four weeks before an expiry (exchange's file of 24 March 2026)."""
HOLD_MS = 30_000
"""So long, in market time, a forward that books told is held when none tells any more: a book that is away for a moment moves no money."""


class Parity(NamedTuple):
    """A forward that put-call parity told. `forward`, `spot`: then · INR · `market_ms`: when · ms UTC."""

    forward: float
    spot: float | None
    market_ms: int


def parity_held(parity: Parity, spot: float | None, market_ms: int) -> float | None:
    """Where a forward lies that books told a moment ago: as far from the spot as then; None when that is more than HOLD_MS ago."""
    if market_ms - parity.market_ms > HOLD_MS:
        return None
    return parity.forward + (spot - parity.spot if spot and parity.spot else 0.0)


def books_forward(ladder: Sequence[Strike], spot: float | None, discount: float) -> float | None:
    """The forward by put-call parity: the median over the PARITY_STRIKES strikes nearest the money of which both sides have a two-sided
    quote, within WIDEST_BOOKS and taken in the middle. Only the ten nearest strikes are looked at.

    Args:
        ladder: ascending.
        spot: last price of the underlying, INR; where it is not known, the money is where call and put last cost the same.
        discount: worth of INR 1 paid at expiry.

    Returns:
        INR; None where no strike near the money has such quotes.
    """
    if not spot:
        traded = _traded(ladder)
        if not traded:
            return None
        spot = _money(traded)
    quoted = [
        (strike.price, call, put)
        for strike in _nearest(ladder, spot)
        if strike.call and strike.put and (call := strike.call.middle_price) and (put := strike.put.middle_price)
        if strike.call.spread + strike.put.spread <= WIDEST_BOOKS * strike.price
    ]
    return parity_forward(quoted[:PARITY_STRIKES], discount)


def trades_forward(ladder: Sequence[Strike], spot: float | None, discount: float) -> float | None:
    """The same by last prices of about the same time; None where no strike near the money has both."""
    newest_ms = max((leg.quote.last_trade_ms or 0 for strike in ladder for leg in strike.legs()), default=0)
    traded = _traded(_nearest(ladder, spot) if spot else ladder, newest_ms - TOGETHER_MS)
    if traded and not spot:
        money = _money(traded)
        traded.sort(key=lambda row: abs(row[0] - money))
    return parity_forward(traded[:PARITY_STRIKES], discount)


def _traded(strikes: Iterable[Strike], since_ms: int = 0) -> list[tuple[float, float, float]]:
    """Strike, last price of the call, and of the put, where both are known, and no trade is known to be older."""
    return [
        (strike.price, call, put)
        for strike in strikes
        if strike.call and strike.put and (call := strike.call.last_price) and (put := strike.put.last_price)
        if all((leg.quote.last_trade_ms or since_ms) >= since_ms for leg in strike.legs())
    ]


def _money(traded: Iterable[tuple[float, float, float]]) -> float:
    return min(traded, key=lambda row: abs(row[1] - row[2]))[0]


def _nearest(ladder: Sequence[Strike], price: float) -> list[Strike]:
    """The `_NEAR` strikes nearest to a price, nearest first."""
    at = bisect_left(ladder, price, key=lambda strike: strike.price)
    return sorted(ladder[max(0, at - _NEAR) : at + _NEAR], key=lambda strike: abs(strike.price - price))[:_NEAR]


def chain_figures(
    ladder: Sequence[Strike], money: Strike | None, spot: float | None, forward: float | None, market: Market | None
) -> Aggregate:
    """All figures of a chain.

    Args:
        ladder: ascending.
        money: the strike at the money.
        spot, forward: INR.
        market: None where nothing can be valued.
    """
    calls = [strike.call for strike in ladder if strike.call is not None]
    puts = [strike.put for strike in ladder if strike.put is not None]
    call_oi, put_oi = sum(leg.quote.open_interest or 0 for leg in calls), sum(leg.quote.open_interest or 0 for leg in puts)
    call_volume, put_volume = sum(leg.quote.volume or 0 for leg in calls), sum(leg.quote.volume or 0 for leg in puts)
    return Aggregate(
        spot=spot,
        forward=None if forward is None else round(forward, 2),
        atm_strike=None if money is None else money.price,
        atm_iv=_atm_volatility(money),
        straddle=_straddle(money),
        pcr_oi=_ratio(put_oi, call_oi),
        pcr_volume=_ratio(put_volume, call_volume),
        max_pain=max_pain([strike.price for strike in ladder], *_interest(ladder)),
        call_oi=call_oi,
        put_oi=put_oi,
        call_volume=call_volume,
        put_volume=put_volume,
        call_oi_change_day=_known_sum(leg.oi_change_day for leg in calls),
        put_oi_change_day=_known_sum(leg.oi_change_day for leg in puts),
        call_oi_change_close=_known_sum(leg.oi_change_close for leg in calls),
        put_oi_change_close=_known_sum(leg.oi_change_close for leg in puts),
        iv_skew=None if money is None else _skew(ladder, money),
        gamma_exposure=None if market is None else _gamma_exposure(ladder, market),
        options=len(calls) + len(puts),
        options_known=sum(leg.quote.open_interest is not None for leg in (*calls, *puts)),
    )


def max_pain(strikes: Sequence[float], call_oi: Sequence[float], put_oi: Sequence[float]) -> float | None:
    """The listed strike at which the holders of all open options together would be paid least if the underlying ended there.

    What is paid at S: Σ call_oi · max(S − K, 0) + Σ put_oi · max(K − S, 0). It bends only at strikes: the least is at one of them.

    Args:
        strikes: ascending · INR.
        call_oi, put_oi: of each strike · units.

    Returns:
        INR, the lowest such strike; None when nobody holds anything.
    """
    below, above = 0.0, float(sum(put_oi))  # calls struck below the next strike, puts struck at or above it
    if not above and not any(call_oi):
        return None
    paid = least = 0.0  # against what is paid at the first strike
    found = before = strikes[0]
    for strike, calls, puts in zip(strikes, call_oi, put_oi, strict=True):
        paid += (strike - before) * (below - above)
        if paid < least:
            least, found = paid, strike
        below, above, before = below + calls, above - puts, strike
    return found


def volatility_at_delta(options: Iterable[tuple[float | None, float | None]], delta: float = SKEW_DELTA) -> float | None:
    """Volatility where |delta| is so much, linearly between the two neighbouring strikes.

    Args:
        options: (delta, volatility) of one side from the money outwards; those of which either is unknown are passed over.
        delta: above 0.

    Returns:
        a fraction; None when no two neighbours enclose that delta.
    """
    before: tuple[float, float] | None = None
    for signed, volatility in options:
        if signed is None or not volatility:
            continue
        size = abs(signed)
        if size == delta:
            return volatility
        if size < delta:
            if before is None:
                return None
            weight = (before[0] - delta) / (before[0] - size)
            return before[1] + weight * (volatility - before[1])
        before = size, volatility
    return None


def _interest(ladder: Sequence[Strike]) -> tuple[list[float], list[float]]:
    return (
        [(strike.call.quote.open_interest or 0.0) if strike.call else 0.0 for strike in ladder],
        [(strike.put.quote.open_interest or 0.0) if strike.put else 0.0 for strike in ladder],
    )


def _skew(ladder: Sequence[Strike], money: Strike) -> float | None:
    at = bisect_left(ladder, money.price, key=lambda strike: strike.price)
    puts = (strike.put.values for strike in reversed(ladder[: at + 1]) if strike.put)
    calls = (strike.call.values for strike in ladder[at:] if strike.call)
    put = volatility_at_delta((values.delta, values.implied_volatility) for values in puts)
    call = volatility_at_delta((values.delta, values.implied_volatility) for values in calls)
    return None if put is None or call is None else round(put - call, 6)


def _gamma_exposure(ladder: Sequence[Strike], market: Market) -> float | None:
    """See `Chain.aggregate`."""
    found = [
        leg.sign * leg.quote.open_interest * gamma_value(strike.price, volatility, market) * 0.01
        for strike in ladder
        for leg in strike.legs()
        if leg.quote.open_interest and (volatility := leg.values.implied_volatility)
    ]
    return float(round(sum(found))) if found else None


def _atm_volatility(money: Strike | None) -> float | None:
    known = [volatility for leg in money.legs() if (volatility := leg.values.implied_volatility)] if money else []
    return round(sum(known) / len(known), 6) if known else None


def _straddle(money: Strike | None) -> float | None:
    prices = [price for leg in money.legs() if (price := leg.last_price)] if money else []
    return round(sum(prices), 4) if len(prices) == 2 else None


def _ratio(puts: float, calls: float) -> float | None:
    return round(puts / calls, 6) if calls else None


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
