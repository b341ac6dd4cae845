"""Values of options against a second library (pyvolr), against the broker's own greeks, and where there are none."""

from __future__ import annotations

import math
from statistics import median

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyvolr import bs

from marketdata.domain.option_values import (
    CALL,
    PUT,
    YEAR_MS,
    Market,
    discount_factor,
    gamma_value,
    greeks,
    implied_volatility,
    parity_forward,
    years_left,
)
from tests.marketdata.domain.hand_chains import CAPTURED, ENDS_MS, captured_frames, captured_listing

SIDES = st.sampled_from([CALL, PUT])
RATES = st.sampled_from([0.0, 0.065])
FORWARDS = st.floats(50, 100_000)
MONEYNESS = st.floats(-0.3, 0.3)
YEARS = st.floats(1 / (365 * 24), 2)
VOLATILITIES = st.floats(0.03, 1.5)
FLAG = {CALL: "c", PUT: "p"}
AT = Market(25_100.0, 4 / 365, 1.0)


@given(SIDES, FORWARDS, MONEYNESS, YEARS, VOLATILITIES, RATES)
def test_greeks_are_those_of_a_second_library(
    side: str, forward: float, moneyness: float, years: float, volatility: float, rate: float
) -> None:
    """Black on a forward is Black-Scholes on an underlying that costs the forward and pays the interest as its yield."""
    strike = forward * math.exp(moneyness)
    found = greeks(side, strike, volatility, Market(forward, years, discount_factor(rate, years)))
    expected = bs.greeks(FLAG[side], forward, strike, years, rate, volatility, rate)
    assert found is not None
    assert found.delta == pytest.approx(expected["delta"], abs=1e-9)
    assert found.gamma * forward == pytest.approx(expected["gamma"] * forward, rel=1e-7, abs=1e-9)
    assert found.theta / forward == pytest.approx(expected["theta"] / 365 / forward, rel=1e-7, abs=1e-9)
    assert found.vega / forward == pytest.approx(expected["vega"] / 100 / forward, rel=1e-7, abs=1e-9)
    assert found.rho / forward == pytest.approx(expected["rho"] / 100 / forward, rel=1e-7, abs=1e-9)
    assert gamma_value(strike, volatility, Market(forward, years, discount_factor(rate, years))) == pytest.approx(
        expected["gamma"] * forward**2, rel=1e-7, abs=1e-6
    )


@given(SIDES, FORWARDS, MONEYNESS, YEARS, VOLATILITIES, RATES)
def test_the_volatility_is_the_one_that_a_second_library_priced_with(
    side: str, forward: float, moneyness: float, years: float, volatility: float, rate: float
) -> None:
    """Where the price holds more than a tick of hope: below it a price says nothing of volatility."""
    strike, discount = forward * math.exp(moneyness), discount_factor(rate, years)
    price = float(bs.price(FLAG[side], forward, strike, years, rate, volatility, rate))
    intrinsic = max(0.0, forward - strike if side == CALL else strike - forward) * discount
    assume(price - intrinsic > 0.05 and price < 0.999 * discount * (forward if side == CALL else strike))
    assert implied_volatility(side, strike, price, Market(forward, years, discount)) == pytest.approx(volatility, rel=1e-4)


@given(SIDES, st.floats(0, 1e6), st.floats(-1, 1e6), st.floats(-1, 1e6), st.floats(0, 5), RATES)
def test_no_price_raises(side: str, strike: float, price: float, forward: float, years: float, rate: float) -> None:
    market = Market(forward, years, discount_factor(rate, years))
    volatility = implied_volatility(side, strike, price, market)
    if volatility is not None:
        assert 0 < volatility < math.inf
        assert greeks(side, strike, volatility, market) is not None
    assert gamma_value(strike, volatility or 0.0, market) >= 0


@pytest.mark.parametrize(
    ("side", "strike", "price", "market"),
    [
        (CALL, 25_000.0, 100.0, AT),  # at the intrinsic value
        (CALL, 25_000.0, 99.95, AT),  # below it
        (PUT, 25_200.0, 99.95, AT),
        (CALL, 25_000.0, 0.0, AT),
        (CALL, 25_000.0, -1.0, AT),
        (CALL, 25_000.0, 25_100.0, AT),  # dearer than the underlying itself
        (PUT, 25_000.0, 25_000.0, AT),
        (CALL, 25_000.0, math.nan, AT),
        (CALL, 25_000.0, 150.0, Market(25_100.0, 0.0, 1.0)),  # no time left
        (CALL, 25_000.0, 150.0, Market(0.0, 0.01, 1.0)),
    ],
)
def test_a_price_that_no_volatility_makes_has_none(side: str, strike: float, price: float, market: Market) -> None:
    assert implied_volatility(side, strike, price, market) is None


@pytest.mark.parametrize(("volatility", "market"), [(0.0, AT), (0.1, Market(25_100.0, 0.0, 1.0)), (0.1, Market(0.0, 0.01, 1.0))])
def test_without_volatility_time_or_forward_there_are_no_greeks(volatility: float, market: Market) -> None:
    assert greeks(CALL, 25_000.0, volatility, market) is None
    assert gamma_value(25_000.0, volatility, market) == 0


def test_a_far_wing_on_its_last_afternoon_is_priced_all_the_same() -> None:
    """The cheapest that an option can be, 8 % out of the money with half an hour to go."""
    market = Market(25_000.0, 0.5 / (365 * 24), 1.0)
    volatility = implied_volatility(CALL, 27_000.0, 0.05, market)
    assert volatility is not None
    assert volatility > 1
    assert float(bs.price("c", 25_000, 27_000, market.years, 0, volatility)) == pytest.approx(0.05, rel=1e-4)


def test_time_is_counted_in_calendar_days_to_the_end_of_trading() -> None:
    assert years_left(YEAR_MS, 0) == 1
    assert years_left(2 * YEAR_MS, YEAR_MS + YEAR_MS // 2) == 0.5
    assert years_left(1_000, 2_000) == 0
    assert discount_factor(0.065, 1) == pytest.approx(0.937067, abs=1e-6)
    assert discount_factor(0.0, 1) == 1


def test_the_forward_is_the_median_of_what_each_strike_says() -> None:
    assert parity_forward([(100, 6, 2), (105, 3, 4), (110, 90, 8)], 1.0) == 104  # 104, 104, 192: one stale price moves nothing
    assert parity_forward([(100, 6, 2)], 0.5) == 108
    assert parity_forward([], 1.0) is None
    assert parity_forward([(100, 1, 900)], 1.0) is None


@pytest.mark.realdata
def test_no_other_convention_comes_as_near_to_the_brokers_greeks() -> None:
    """What the conventions are taken from: Black on the future, no interest, to the end of trading, to the broker's own last decimal.

    Medians over NIFTY's updates: some of the broker's values lag its future.
    """
    day_end_ms = ENDS_MS + int(8.5 * 3_600_000)
    off = {
        "the future, no interest, to 15:30": apart("future", 0.0, ENDS_MS),
        "the future, 6.5 %, to 15:30": apart("future", 0.065, ENDS_MS),
        "the future, no interest, to midnight": apart("future", 0.0, day_end_ms),
        "the spot with 6.5 %, to 15:30": apart("spot", 0.065, ENDS_MS),
        "the spot with 10 %, to 15:30": apart("spot", 0.10, ENDS_MS),
    }
    for name, values in off.items():
        print(f"{name:40}", *(f"{greek} {value:.5f}" for greek, value in values.items()))
    chosen, *others = off.values()
    assert max(chosen["delta"], chosen["gamma"]) < 1e-4
    assert max(chosen["theta"], chosen["vega"], chosen["rho"]) < 2e-4
    assert all(other["delta"] > 5 * chosen["delta"] and other["theta"] > 50 * chosen["theta"] for other in others)


def apart(on: str, rate: float, ends_ms: int) -> dict[str, float]:
    """The median distance from the broker's greeks at the broker's volatility, over the captured updates of NIFTY's options."""
    options = {option.key: option for option in captured_listing("NIFTY").options}
    _, _, number, index = CAPTURED["NIFTY"]
    off: dict[str, list[float]] = {name: [] for name in ("delta", "theta", "gamma", "vega", "rho")}
    prices: dict[str, float] = {}
    for now_ms, feeds in captured_frames():
        prices |= {name: feeds[key]["ltpc"]["ltp"] for name, key in (("future", f"NSE_FO|{number}"), ("spot", index)) if key in feeds}
        years = years_left(ends_ms, now_ms)
        for key in options.keys() & feeds.keys() if on in prices else ():
            forward = prices[on] * (math.exp(rate * years) if on == "spot" else 1)
            sent, market = feeds[key], Market(forward, years, discount_factor(rate, years))
            found = greeks(options[key].side, options[key].strike_price, sent["iv"], market)
            assert found is not None
            for name, values in off.items():
                values.append(abs(getattr(found, name) - sent["optionGreeks"][name]))
    assert len(off["delta"]) > 300
    return {name: median(values) for name, values in off.items()}
