"""What an option's price says: forward, volatility, greeks. Black (1976) on the forward, by QuantLib. Pure.

Conventions are the broker's, found by recomputing its own greeks from 100 real frames (docs/option-chain.md): the forward is where the
future of that expiry trades, not the spot with interest; time is calendar days / 365 to the end of trading; no interest. Nothing here
raises for a price that the market may show: what has no answer is None.

Source: F. Black, "The pricing of commodity contracts", Journal of Financial Economics 3 (1976).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

import QuantLib

CALL, PUT = "CE", "PE"
YEAR_MS = 365 * 86_400_000
"""Calendar days / 365, ms."""
PARITY_STRIKES = 5
"""How many strikes' forwards the median is taken of."""
_ACCURACY = 1e-8
_SQRT_2PI = math.sqrt(2 * math.pi)
_OWN_GUESS = QuantLib.nullDouble()
_TYPES: dict[str, int] = {CALL: QuantLib.Option.Call, PUT: QuantLib.Option.Put}


class Market(NamedTuple):
    """What options of one expiry are valued on. `forward`: INR · `years`: to the end of trading · `discount`: worth of INR 1 paid then."""

    forward: float
    years: float
    discount: float


class Greeks(NamedTuple):
    """Per unit of the underlying, in the broker's units (FACTS §3.6).

    Attributes:
        delta: INR per INR of the forward · −1 to 1.
        gamma: delta per INR of the forward.
        theta: INR a calendar day, the forward standing still.
        vega: INR per 1 % (one point) of volatility.
        rho: INR per 1 % (one point) of interest, the spot standing still, so that the forward moves.
    """

    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float


def years_left(ends_ms: int, market_ms: int) -> float:
    """Years from a market time to the end of trading, both ms UTC; 0 when it has ended."""
    return max(0, ends_ms - market_ms) / YEAR_MS


def discount_factor(interest_rate: float, years: float) -> float:
    """What INR 1 then is worth now, at a year's continuous rate as a fraction."""
    return math.exp(-interest_rate * years)


def parity_forward(prices: Iterable[tuple[float, float, float]], discount: float) -> float | None:
    """The forward that calls and puts of one strike imply: strike + (call − put) / discount; the median over strikes.

    Args:
        prices: (strike, call, put) · INR.

    Returns:
        INR; None without prices, or when they say nonsense (not above 0).

    Source: H. Stoll, "The relationship between put and call option prices", Journal of Finance 24 (1969); J. Hull, "Options, Futures and
        Other Derivatives", §18.4: c + K·e^(−rT) = p + F·e^(−rT).
    """
    found = [strike + (call - put) / discount for strike, call, put in prices]
    forward = median(found) if found else 0.0
    return forward if forward > 0 else None


def implied_volatility(side: str, strike: float, price: float, market: Market) -> float | None:
    """The volatility at which Black's formula gives the price, a fraction.

    Returns:
        None when there is none: a price at or below the discounted intrinsic value, or at or above the most it can be worth (the discounted
        forward of a call, the discounted strike of a put), no time left, or a solver that finds nothing.
    """
    forward, years, discount = market
    ahead = forward - strike if side == CALL else strike - forward
    most = forward if side == CALL else strike
    if not (strike > 0 and forward > 0 and years > 0 and max(0.0, ahead) * discount < price < most * discount):
        return None
    try:
        deviation = QuantLib.blackFormulaImpliedStdDev(_TYPES[side], strike, forward, price, discount, 0.0, _OWN_GUESS, _ACCURACY)
    except RuntimeError:
        return None
    found = float(deviation) / math.sqrt(years)
    return found if found > 0 else None


def greeks(side: str, strike: float, volatility: float, market: Market) -> Greeks | None:
    """The greeks at a volatility (fraction); None without volatility, forward or time."""
    forward, years, discount = market
    if not (volatility > 0 and strike > 0 and forward > 0 and years > 0):
        return None
    payoff = QuantLib.PlainVanillaPayoff(_TYPES[side], strike)
    black = QuantLib.BlackCalculator(payoff, forward, volatility * math.sqrt(years), discount)
    return Greeks(
        delta=black.deltaForward(),
        gamma=black.gammaForward(),
        theta=black.theta(forward, years) / 365,
        vega=black.vega(years) / 100,
        rho=black.rho(years) / 100,
    )


def gamma_value(strike: float, volatility: float, market: Market) -> float:
    """Gamma × forward², INR: discount · forward · n(d₁) / (volatility · √years), the same of a call and a put; 0 where nothing can be said.

    It comes from the volatility, not from the broker's gamma, whose four decimals leave BANKNIFTY's 0.0005 a single digit.
    """
    forward, years, discount = market
    deviation = volatility * math.sqrt(years)
    if not (deviation > 0 and strike > 0 and forward > 0):
        return 0.0
    d1 = math.log(forward / strike) / deviation + deviation / 2
    return discount * forward * math.exp(-d1 * d1 / 2) / (_SQRT_2PI * deviation)
