from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.simulator import pricing
from broker.simulator.calendar import expiry_ms
from broker.simulator.contract import Kind
from broker.simulator.pricing import CARRY, Floats
from instruments.domain.instrument import IST

spots = st.floats(100, 80_000)
moneyness = st.floats(0.7, 1.4)
years = st.floats(1 / 365, 0.5)
levels = st.floats(0.08, 0.4)


def one(value: float) -> Floats:
    return np.array([value])


def price(sign: int, spot: float, strike: float, time: float, sigma: float) -> float:
    return float(pricing.option_price(np.array([sign]), one(spot), one(strike), one(time), one(sigma))[0])


def textbook(sign: int, spot: float, strike: float, time: float, sigma: float) -> float:
    """Black's formula as printed (Hull, Options, Futures and Other Derivatives, chapter 18) without interest, on Python's own normal."""
    n = NormalDist().cdf
    future = spot * math.exp(CARRY * time)
    d1 = (math.log(future / strike) + sigma * sigma / 2 * time) / (sigma * math.sqrt(time))
    d2 = d1 - sigma * math.sqrt(time)
    return sign * (future * n(sign * d1) - strike * n(sign * d2))


@given(spots, moneyness, years, levels, st.sampled_from([1, -1]))
def test_prices_are_the_textbooks(spot: float, ratio: float, time: float, sigma: float, sign: int) -> None:
    assert price(sign, spot, spot * ratio, time, sigma) == pytest.approx(textbook(sign, spot, spot * ratio, time, sigma), abs=spot * 1e-9)


@given(spots, moneyness, years, levels)
def test_a_call_less_a_put_is_the_forward_less_the_strike(spot: float, ratio: float, time: float, level: float) -> None:
    strike = spot * ratio
    sigma = pricing.volatility(one(spot), one(strike), one(time), one(level))
    gap = price(1, spot, strike, time, float(sigma[0])) - price(-1, spot, strike, time, float(sigma[0]))
    forward = float(pricing.forward(one(spot), one(time))[0])
    assert gap == pytest.approx(forward - strike, abs=spot * 1e-7)


@given(spots, moneyness, years, levels)
def test_prices_stay_within_what_no_arbitrage_allows(spot: float, ratio: float, time: float, level: float) -> None:
    strike = spot * ratio
    sigma = float(pricing.volatility(one(spot), one(strike), one(time), one(level))[0])
    future, slack = spot * math.exp(CARRY * time), spot * 1e-9
    assert max(future - strike, 0) - slack <= price(1, spot, strike, time, sigma) <= future + slack
    assert max(strike - future, 0) - slack <= price(-1, spot, strike, time, sigma) <= strike + slack


@pytest.mark.parametrize("time", [1 / 365, 7 / 365, 30 / 365, 0.25])
def test_calls_fall_and_puts_rise_with_the_strike_on_the_smile(time: float) -> None:
    strikes = np.arange(21_600.0, 26_400.0, 50.0)
    spot, left, level = np.full_like(strikes, 24_000.0), np.full_like(strikes, time), np.full_like(strikes, 0.13)
    sigma = pricing.volatility(spot, strikes, left, level)
    calls = pricing.option_price(np.ones(len(strikes), np.int64), spot, strikes, left, sigma)
    puts = pricing.option_price(-np.ones(len(strikes), np.int64), spot, strikes, left, sigma)
    assert (np.diff(calls) <= 0).all()
    assert (np.diff(puts) >= 0).all()


def test_the_smile_is_dearer_below_and_up_in_the_far_wings() -> None:
    strikes = np.array([21_000.0, 23_000.0, 24_000.0, 25_000.0, 29_000.0])
    sigma = pricing.volatility(np.full(5, 24_000.0), strikes, np.full(5, 14 / 365), np.full(5, 0.13))
    assert sigma[0] > sigma[1] > sigma[2] > sigma[3]
    assert sigma[4] > sigma[3]
    assert ((sigma > 0.05) & (sigma < 0.4)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_greeks_are_the_slopes_of_the_price_in_the_brokers_units(sign: int) -> None:
    future, strike, time, sigma = 24_000.0, 24_200.0, 9 / 365, 0.13

    def price_at(future: float, time: float = time, sigma: float = sigma) -> float:
        return price(sign, future * math.exp(-CARRY * time), strike, time, sigma)

    spot = future * math.exp(-CARRY * time)
    greeks = pricing.option_greeks(np.array([sign]), one(spot), one(strike), one(time), one(sigma))
    up, same, down = (price_at(future + step) for step in (1, 0, -1))
    assert greeks.delta[0] == pytest.approx((up - down) / 2, rel=1e-5)
    assert greeks.gamma[0] == pytest.approx(up - 2 * same + down, rel=1e-3)
    dearer, cheaper = price_at(future, sigma=sigma + 0.005), price_at(future, sigma=sigma - 0.005)
    assert greeks.vega[0] == pytest.approx(dearer - cheaper, rel=1e-3)
    half = 0.5 / 365
    assert greeks.theta[0] == pytest.approx(price_at(future, time - half) - price_at(future, time + half), rel=1e-2)


def test_values_of_every_kind_come_from_one_call() -> None:
    kinds = np.array([Kind.INDEX, Kind.SPOT, Kind.FUTURE, Kind.OPTION, Kind.OPTION])
    spot, time = np.full(5, 24_000.0), np.full(5, 30 / 365)
    found = pricing.fair_values(kinds, np.array([0, 0, 0, 1, -1]), np.array([0, 0, 0, 24_000.0, 24_000.0]), time, spot, np.full(5, 0.13))
    assert found.price[:2].tolist() == [24_000.0, 24_000.0]
    assert found.price[2] == pytest.approx(24_000 * math.exp(0.053 * 30 / 365))
    assert found.price[3] > found.price[4] > 0
    assert found.volatility[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("day", "hour", "minute"), [(date(2026, 7, 28), 15, 30), (date(2026, 8, 4), 15, 40)])
def test_time_runs_to_the_end_of_trading(day: date, hour: int, minute: int) -> None:
    """Of derivatives: 15:30, and 15:40 since 3 August 2026. Source: FACTS §6."""
    ends = datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST)
    a_day_before_ms = round((ends - timedelta(days=1)).timestamp() * 1000)
    assert pricing.years_left(np.array([expiry_ms(day)]), a_day_before_ms)[0] * 365 == pytest.approx(1)


def test_time_to_expiry_never_ends() -> None:
    assert pricing.years_left(np.array([0, 10**15]), 10**12)[0] == pricing.LEAST_YEARS


def test_prices_are_multiples_of_the_tick_and_never_nothing() -> None:
    found = pricing.to_tick(np.array([145.37, 0.001, 58_709.47, 96.75251]), np.array([0.05, 0.05, 0.2, 0.0025]))
    assert found.tolist() == [145.35, 0.05, 58_709.4, 96.7525]
