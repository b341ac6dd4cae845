"""Fair values: futures with carry, options by Black's formula on a volatility smile. Pure, vectorised.

The formulas are pyvolr's (PyPI): a Rust core on numpy arrays that needs nothing but numpy. What is ours is only the market's
shape: carry, the smile, and the broker's ways: its units of greeks, on the future's price without interest, to the end of trading (found
by recomputing 100 real frames: docs/option-chain.md).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pyvolr import bs

from broker.simulator.calendar import CAS_SINCE, CASH_CLOSE_MINUTE, DAY_MS, DERIVATIVES_CLOSE_MINUTE, MINUTE_MS, midnight_ms
from broker.simulator.contract import Kind

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A year's interest less dividends, a fraction: by so much futures stand above spot.
CARRY = 0.053
YEAR_MS = 365 * DAY_MS
#: From 00:00 of an expiry day to what the master writes for it.
LAST_SECOND_MS = DAY_MS - 1000
#: Time to expiry is not taken below an hour: the last prices stay finite.
LEAST_YEARS = 1 / (365 * 24)
LEAST_VOLATILITY = 0.03
_SKEW = -0.045
_CURVATURE = 0.010
_FARTHEST = 8.0


class Greeks(NamedTuple):
    """Per unit of the underlying, whose future's price `delta` and `gamma` are slopes against.

    `theta` INR per calendar day · `vega` INR per 1 % of volatility · `rho` INR per 1 % of interest.
    """

    delta: Floats
    theta: Floats
    gamma: Floats
    vega: Floats
    rho: Floats


def years_left(expiry_ms: Integers, now_ms: Integers | int) -> Floats:
    """Years to the end of trading of the day that the master's `expiry_ms` means, never below `LEAST_YEARS`."""
    close_minute = np.where(expiry_ms < midnight_ms(CAS_SINCE), CASH_CLOSE_MINUTE, DERIVATIVES_CLOSE_MINUTE)
    ends_ms = expiry_ms - LAST_SECOND_MS + close_minute * MINUTE_MS
    return cast(Floats, np.maximum((ends_ms - now_ms) / YEAR_MS, LEAST_YEARS))


def forward(spot: Floats, years: Floats) -> Floats:
    """Fair price of a future, INR."""
    return spot * np.exp(CARRY * years)


def volatility(spot: Floats, strike: Floats, years: Floats, level: Floats) -> Floats:
    """Implied volatility on the smile, a fraction: lower strikes dearer, both wings up, short expiries a little below the level.

    Args:
        level: volatility of a month at the money, a fraction.
    """
    at_the_money = level * (0.9 + 0.1 * np.sqrt(np.minimum(years * 12, 4)))
    distance = np.log(strike / forward(spot, years)) / (at_the_money * np.sqrt(years))
    distance = np.clip(distance, -_FARTHEST, _FARTHEST)
    return cast(Floats, np.maximum(at_the_money * (1 + _SKEW * distance + _CURVATURE * distance * distance), LEAST_VOLATILITY))


def option_price(sign: Integers, spot: Floats, strike: Floats, years: Floats, sigma: Floats) -> Floats:
    """Fair price, INR. `sign` is 1 for a call, −1 for a put."""
    return cast(Floats, bs.price(sign, forward(spot, years), strike, years, 0.0, sigma, 0.0))


class Values(NamedTuple):
    """Fair prices in INR, not yet on the tick, and implied volatilities (0 for what is not an option)."""

    price: Floats
    volatility: Floats


def fair_values(kind: Integers, sign: Integers, strike: Floats, years: Floats, spot: Floats, level: Floats) -> Values:
    """Value instruments of any kind, all arguments being arrays of one shape; `level` as in `volatility`."""
    price, sigma = spot.copy(), np.zeros_like(spot)
    future = kind == Kind.FUTURE
    if future.any():
        price[future] = forward(spot[future], years[future])
    option = kind == Kind.OPTION
    if option.any():
        spot, strike, years = spot[option], strike[option], years[option]
        sigma[option] = found = volatility(spot, strike, years, level[option])
        price[option] = option_price(sign[option], spot, strike, years, found)
    return Values(price, sigma)


def option_greeks(sign: Integers, spot: Floats, strike: Floats, years: Floats, sigma: Floats) -> Greeks:
    """Greeks in the broker's units (FACTS §3.6)."""
    found = cast(dict[str, Floats], bs.greeks(sign, forward(spot, years), strike, years, 0.0, sigma, 0.0))
    return Greeks(found["delta"], found["theta"] / 365, found["gamma"], found["vega"] / 100, found["rho"] / 100)


def to_tick(price: Floats, tick: Floats) -> Floats:
    """The nearest multiple of the tick, at least one tick."""
    return cast(Floats, np.round(np.maximum(np.rint(price / tick), 1) * tick, 4))
