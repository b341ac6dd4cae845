"""Reading the broker's option chain."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from broker.upstox.option_chain import option_chain_path, parse_previous_interest
from broker.upstox.protocol import ProtocolViolation

SIDE = {"instrument_key": "NSE_FO|37590", "market_data": {"ltp": 2449.9, "volume": 0, "oi": 750.0, "prev_oi": 1500.0}, "option_greeks": {}}
"""As in the broker's documentation of `Put/Call Option Chain`. Source: FACTS §5."""


def test_the_address_escapes_the_key() -> None:
    wanted = "/v2/option/chain?instrument_key=NSE_INDEX%7CNifty+50&expiry_date=2026-11-24"
    assert option_chain_path("NSE_INDEX|Nifty 50", date(2026, 11, 24)) == wanted


def test_each_side_that_is_there_tells_its_previous_interest() -> None:
    other = {"instrument_key": "NSE_FO|1", "market_data": {"oi": 5.0}}
    strikes = [{"strike_price": 1.0, "call_options": SIDE}, {"strike_price": 2.0, "call_options": None, "put_options": other}, {}]
    assert parse_previous_interest(strikes) == {"NSE_FO|37590": 1500.0}
    assert parse_previous_interest([]) == {}


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        ["x"],
        [{"call_options": 7}],
        [{"call_options": {"instrument_key": "k"}}],
        [{"put_options": {"market_data": {"prev_oi": 1}}}],
        [{"put_options": {"instrument_key": "k", "market_data": {"prev_oi": "much"}}}],
        [{"put_options": {"instrument_key": "k", "market_data": {"prev_oi": -1}}}],
        [{"put_options": {"instrument_key": "k", "market_data": {"prev_oi": float("nan")}}}],
    ],
)
def test_what_is_no_chain_is_a_violation(content: Any) -> None:
    with pytest.raises(ProtocolViolation):
        parse_previous_interest(content)
