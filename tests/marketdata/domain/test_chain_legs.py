"""One option of a chain: what is shown of it, and when values that the broker did not send are computed anew."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from instruments.domain.listing import ListedOption
from marketdata.domain.chain_legs import FORWARD_MOVED, VALUES_MS, Leg, Strike
from marketdata.domain.chain_rows import InterestBase, OptionQuote
from marketdata.domain.option_values import CALL, PUT, Market, greeks, implied_volatility

NORMAL = NormalDist()
MARKET = Market(25_120.0, 4 / 365, 1.0)
BARE = OptionQuote(last_price=116.0)
SENT = OptionQuote(last_price=116.0, implied_volatility=0.1, delta=0.5, theta=-13.0, gamma=0.0015, vega=10.5, rho=1.5)


def a_leg(side: str = CALL, strike: float = 25_100.0) -> Leg:
    return Leg(ListedOption(7, "NSE_FO|7", strike, side, 65), Strike(strike))


def a_valued_leg() -> Leg:
    leg = a_leg()
    leg.quote = BARE
    assert leg.revalue(MARKET, 0)
    return leg


def test_what_the_broker_sent_is_shown_and_nothing_computed() -> None:
    leg = a_leg()
    leg.quote = SENT
    assert not leg.revalue(MARKET, 0)
    assert leg.values == (0.1, 0.5, 0.0015, -13.0, 10.5, 1.5)  # gamma before theta, as the columns have it
    assert leg.shown(25_100.0).computed is False


@pytest.mark.parametrize("sent", [None, 0.0])
def test_without_the_brokers_volatility_ours_is_that_of_the_last_price(sent: float | None) -> None:
    leg = a_leg()
    leg.quote = SENT._replace(implied_volatility=sent)
    assert leg.revalue(MARKET, 0)
    volatility = implied_volatility(CALL, 25_100.0, 116.0, MARKET)
    assert volatility is not None
    expected = greeks(CALL, 25_100.0, volatility, MARKET)
    assert expected is not None
    assert leg.values == pytest.approx((volatility, *expected), rel=1e-3)
    assert leg.shown(25_100.0).computed is True


def test_greeks_alone_are_computed_at_the_brokers_volatility() -> None:
    leg = a_leg()
    leg.quote = OptionQuote(last_price=116.0, implied_volatility=0.25)
    assert leg.revalue(MARKET, 0)
    expected = greeks(CALL, 25_100.0, 0.25, MARKET)
    assert expected is not None
    assert leg.values == pytest.approx((0.25, *expected), rel=1e-3)
    assert leg.shown(25_100.0).computed is True


def test_what_cannot_be_said_is_none_and_not_called_computed() -> None:
    for quote, market in ((OptionQuote(), MARKET), (BARE, None), (OptionQuote(last_price=15.0), MARKET)):  # 15 is below the intrinsic 20
        leg = a_leg()
        leg.quote = quote
        assert not leg.revalue(market, 0)
        assert leg.values == (None,) * 6
        assert leg.shown(25_100.0).computed is False


def test_a_trade_that_the_book_has_left_behind_leaves_the_word_to_the_book() -> None:
    """A call struck at 25,000 with the forward at 25,120: an old trade at 115 has no volatility; a book round 135 has."""
    leg = a_leg(strike=25_000.0)
    book = OptionQuote(last_price=115.0, bid_price=134.0, ask_price=136.0)
    for quote, price in (
        (book, 134.0),  # the nearer side of the book that has left the trade behind
        (book._replace(last_price=135.5), 135.5),  # a trade within the book tells itself
        (book._replace(last_price=140.0), 136.0),
        (book._replace(last_price=140.0, ask_price=None), 140.0),  # no book: the trade
        (book._replace(bid_price=118.0), 127.0),  # below the intrinsic value even so: the middle
        (book._replace(bid_price=118.0, ask_price=138.0), 128.0),  # which moves, and nothing else
        (book._replace(last_price=None), 135.0),
    ):
        leg.quote = quote
        assert leg.revalue(MARKET, 1)
        assert leg.values.implied_volatility == pytest.approx(black_volatility(price, 25_000.0), rel=1e-3)
        assert leg.shown(25_000.0).computed is True
        assert not leg.revalue(MARKET, 1)
    for quote in (book._replace(ask_price=None), book._replace(bid_price=137.0), book._replace(bid_price=100.0, ask_price=110.0)):
        leg.quote = quote
        leg.revalue(MARKET, 1)
        assert leg.values == (None,) * 6


def black_volatility(price: float, strike: float) -> float:
    """Of a call in MARKET, by bisection of Black's formula."""
    low, high = 0.001, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        deviation = middle * (MARKET.years**0.5)
        d1 = math.log(MARKET.forward / strike) / deviation + deviation / 2
        worth = MARKET.forward * NORMAL.cdf(d1) - strike * NORMAL.cdf(d1 - deviation)
        low, high = (middle, high) if worth < price else (low, middle)
    return low


def test_a_small_move_of_the_forward_leaves_values_alone() -> None:
    leg = a_valued_leg()
    before = leg.values
    assert not leg.revalue(MARKET._replace(forward=25_120.0 * (1 + 0.99 * FORWARD_MOVED)), 1)
    assert leg.values is before


@pytest.mark.parametrize(
    ("quote", "market", "at_ms"),
    [
        (OptionQuote(last_price=117.0), MARKET, 1),
        (OptionQuote(last_price=116.0, implied_volatility=0.2), MARKET, 1),
        (BARE, MARKET._replace(forward=25_120.0 * (1 + 1.01 * FORWARD_MOVED)), 1),
        (BARE, MARKET._replace(forward=25_120.0 * (1 - 1.01 * FORWARD_MOVED)), 1),
        (BARE, MARKET._replace(years=3.9 / 365), VALUES_MS),
        (BARE, None, 1),
        (SENT, MARKET, 1),
    ],
    ids=["price", "volatility", "forward up", "forward down", "a minute", "no forward", "the broker's"],
)
def test_values_are_computed_anew_when_they_are_due(quote: OptionQuote, market: Market | None, at_ms: int) -> None:
    leg = a_valued_leg()
    before = leg.values
    leg.quote = quote
    assert leg.revalue(market, at_ms)
    assert leg.values != before
    assert not leg.revalue(market, at_ms)


def test_changes_are_against_the_previous_close_and_both_bases() -> None:
    leg = a_leg()
    leg.quote = OptionQuote(last_price=90.0, previous_close=120.0, open_interest=6_500.0)
    leg.base = InterestBase(day_start=6_000.0, previous_close=7_000.0)
    side = leg.shown(25_100.0)
    assert (side.change, side.change_percent) == (-30.0, -25.0)
    assert (side.oi_change_day, side.oi_change_close) == (500.0, -500.0)


@pytest.mark.parametrize(
    "quote",
    [OptionQuote(), OptionQuote(last_price=90.0), OptionQuote(previous_close=90.0), OptionQuote(last_price=90.0, previous_close=0.0)],
)
def test_a_change_needs_both_ends(quote: OptionQuote) -> None:
    leg = a_leg()
    leg.quote = quote
    side = leg.shown(None)
    assert (side.change, side.change_percent, side.oi_change_day, side.oi_change_close) == (None, None, None, None)


@pytest.mark.parametrize(
    ("side", "strike", "atm", "word"),
    [
        (CALL, 25_000.0, 25_100.0, "itm"),
        (CALL, 25_100.0, 25_100.0, "atm"),
        (CALL, 25_200.0, 25_100.0, "otm"),
        (PUT, 25_000.0, 25_100.0, "otm"),
        (PUT, 25_100.0, 25_100.0, "atm"),
        (PUT, 25_200.0, 25_100.0, "itm"),
        (PUT, 25_200.0, None, None),
    ],
)
def test_moneyness_is_against_the_strike_at_the_money(side: str, strike: float, atm: float | None, word: str | None) -> None:
    assert a_leg(side, strike).shown(atm).moneyness == word


@pytest.mark.parametrize(
    ("bid", "ask", "middle"), [(99.0, 101.0, 100.0), (None, 101.0, None), (0.0, 101.0, None), (99.0, None, None), (101.0, 99.0, None)]
)
def test_the_middle_needs_two_sides_that_are_not_crossed(bid: float | None, ask: float | None, middle: float | None) -> None:
    leg = a_leg()
    leg.quote = OptionQuote(bid_price=bid, ask_price=ask)
    assert leg.middle_price == middle


def test_a_strike_shows_the_sides_that_are_listed() -> None:
    leg = a_leg(PUT)
    leg.strike.put = leg
    row = leg.strike.shown(None)
    assert (row.strike_price, row.call) == (25_100.0, None)
    assert row.put is leg.side
    assert leg.strike.shown(None) is row
    assert leg.strike.legs() == [leg]
