"""A chain as it moves: however it came to be, it is the chain of its last quotes, and no reader misses a change."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.domain.chain import Chain, InterestBase, OptionQuote, Row, Side
from marketdata.domain.chain_figures import HOLD_MS
from marketdata.domain.chain_legs import FORWARD_MOVED, VALUES_MS
from marketdata.domain.option_values import CALL, PUT, Market, discount_factor, implied_volatility, years_left
from tests.marketdata.domain.hand_chains import (
    CAPTURED,
    DAY_MS,
    ENDS_MS,
    captured_frames,
    captured_listing,
    captured_quote,
    chain_listing,
    ladder,
)

NOW_MS = ENDS_MS - 4 * DAY_MS
STRIKES = [24_900.0, 25_000.0, 25_100.0, 25_200.0, 25_300.0]
SENT = OptionQuote(last_price=116.0, implied_volatility=0.1, delta=0.5, theta=-13.0, gamma=0.0015, vega=10.5, rho=1.5)

# --- one after another ------------------------------------------------------------------------------------------------


def a_chain(strikes: list[float] = STRIKES) -> Chain:
    """With prices that put the forward at 25,110 and no values from the broker."""
    chain = Chain(ladder(strikes), interest_rate=0.0)
    for number, strike in enumerate(strikes):
        chain.take(2 * number + 1, bare(25_110.0, strike, CALL), NOW_MS)
        chain.take(2 * number + 2, bare(25_110.0, strike, PUT), NOW_MS)
    chain.take_spot(25_080.0, NOW_MS)
    return chain


def bare(forward: float, strike: float, side: str, hope: float = 90.0) -> OptionQuote:
    price = max(0.0, forward - strike if side == CALL else strike - forward) + hope
    return OptionQuote(last_price=price, bid_price=price - 0.05, ask_price=price + 0.05)


def strikes_of(rows: list[Row]) -> list[float]:
    return [row.strike_price for row in rows]


def test_a_quote_changes_its_strike_alone() -> None:
    chain = a_chain()
    before, seen = chain.rows(), chain.seq
    assert chain.take(5, bare(25_110.0, 25_100.0, CALL)._replace(volume=65), NOW_MS + 1)
    assert strikes_of(chain.rows(newer_than=seen)) == [25_100.0]
    after = chain.rows()
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, True, False, True, True]
    assert after[2].put is before[2].put
    assert (after[2].stamp, after[2].call and after[2].call.volume) == (chain.seq, 65)


def test_a_quote_that_shows_nothing_new_changes_nothing() -> None:
    chain = a_chain()
    chain.rows()
    seen, whole = chain.seq, chain.aggregate()
    assert not chain.take(5, bare(25_110.0, 25_100.0, CALL)._replace(last_trade_ms=NOW_MS), NOW_MS + 1)
    assert not chain.take_spot(25_080.0, NOW_MS + 2)
    assert not chain.take_bases({5: InterestBase(), 99: InterestBase(1.0, 1.0)})
    assert chain.seq == seen
    assert chain.rows(newer_than=seen) == []
    assert chain.aggregate() is whole
    assert chain.market_ms == NOW_MS + 2


def test_a_stranger_is_refused() -> None:
    with pytest.raises(KeyError):
        a_chain().take(99, SENT, NOW_MS)


def test_a_spot_that_moves_nothing_else_changes_the_whole_and_no_strike() -> None:
    chain = a_chain()
    chain.rows()
    seen = chain.seq
    assert chain.take_spot(25_081.0, NOW_MS)
    assert chain.seq > seen
    assert chain.rows(newer_than=seen) == []
    assert chain.aggregate().spot == 25_081.0


def test_another_money_changes_the_strikes_between_and_no_others() -> None:
    chain = Chain(ladder(STRIKES), interest_rate=0.0)  # no prices: the money is where the spot is
    assert {row.call and row.call.moneyness for row in chain.rows()} == {None}
    chain.take_spot(25_010.0, NOW_MS)
    assert [row.call and row.call.moneyness for row in chain.rows()] == ["itm", "atm", "otm", "otm", "otm"]
    seen = chain.seq
    chain.take_spot(25_190.0, NOW_MS)
    assert strikes_of(chain.rows(newer_than=seen)) == [25_000.0, 25_100.0, 25_200.0]
    assert [row.put and row.put.moneyness for row in chain.rows()] == ["otm", "otm", "otm", "atm", "itm"]
    seen = chain.seq
    chain.take_spot(25_210.0, NOW_MS)
    assert chain.rows(newer_than=seen) == []
    chain.take_spot(None, NOW_MS)
    assert len(chain.rows(newer_than=seen)) == 5
    assert chain.aggregate().atm_strike is None


def test_bases_change_the_sides_they_speak_of() -> None:
    chain = a_chain()
    chain.take(1, SENT._replace(open_interest=650.0), NOW_MS)
    chain.rows()
    seen = chain.seq
    assert chain.take_bases({1: InterestBase(600.0, 700.0), 99: InterestBase(1.0, 1.0)})
    (row,) = chain.rows(newer_than=seen)
    assert row.call is not None
    assert (row.call.oi_change_day, row.call.oi_change_close) == (50.0, -50.0)


def test_a_window_is_so_many_strikes_each_side_of_the_money() -> None:
    chain = Chain(ladder(STRIKES), interest_rate=0.0)
    assert chain.window("all") == tuple(STRIKES)
    assert chain.window("atm1") == (25_000.0, 25_100.0, 25_200.0)  # nobody knows the money: the middle
    chain.take_spot(24_000.0, NOW_MS)
    assert chain.window("atm1") == (24_900.0, 25_000.0)
    chain.take_spot(25_290.0, NOW_MS)
    assert chain.window("atm1") == (25_200.0, 25_300.0)
    assert strikes_of(chain.rows(chain.window("atm1"))) == [25_200.0, 25_300.0]
    with pytest.raises(ValueError, match="write all"):
        chain.window("atm0")


def test_a_price_that_trembles_between_two_strikes_moves_the_money_and_no_window() -> None:
    chain = Chain(ladder(STRIKES), interest_rate=0.0)
    chain.take_spot(25_149.0, NOW_MS)
    centred = (25_000.0, 25_100.0, 25_200.0)
    assert chain.window("atm1") == centred
    for price, money in [(25_151.0, 25_200.0), (25_149.0, 25_100.0), (25_223.0, 25_200.0), (25_075.0, 25_100.0)]:
        chain.take_spot(price, NOW_MS)
        assert (chain.window("atm1"), chain.aggregate().atm_strike) == (centred, money)
        row = next(row for row in chain.rows() if row.strike_price == money)
        assert row.call is not None
        assert row.call.moneyness == "atm"
    for price in (25_225.0, 25_151.0):  # 76 from 25,149, three quarters of a step and more; then 74 back
        chain.take_spot(price, NOW_MS)
        assert chain.window("atm1") == (25_100.0, 25_200.0, 25_300.0)
    chain.take_spot(25_149.0, NOW_MS)  # 76 back
    assert chain.window("atm1") == centred


@given(
    st.lists(st.integers(1, 2), min_size=8, max_size=12),
    st.lists(st.sampled_from([None, *range(-40, 41)]), min_size=20, max_size=30),
)
def test_a_window_is_never_more_than_one_strike_off_the_money(gaps: list[int], moves: list[int | None]) -> None:
    strikes = [25_000.0 + 25 * sum(gaps[:number]) for number in range(len(gaps) + 1)]
    chain = Chain(ladder(strikes), interest_rate=0.0)
    spot = 25_100.0
    for move in moves:
        spot += move or 0
        chain.take_spot(None if move is None else spot, NOW_MS)
        window, money = chain.window("atm1"), chain.aggregate().atm_strike
        assert money is None if move is None else money in window
        assert window == chain.window("atm1"), "asking again moves nothing"


def test_a_chain_of_nothing_says_nothing() -> None:
    chain = Chain(chain_listing([]), interest_rate=0.0)
    chain.take_spot(25_000.0, NOW_MS)
    assert (chain.rows(), chain.window("all"), chain.window("atm5")) == ([], (), ())
    assert chain.aggregate().atm_strike is None


def test_a_side_that_is_not_listed_is_none() -> None:
    chain = Chain(chain_listing([(1, 25_000.0, CALL), (2, 25_100.0, PUT)]), interest_rate=0.0)
    chain.take(1, SENT, NOW_MS)
    assert [(row.call is None, row.put is None) for row in chain.rows()] == [(False, True), (True, False)]


def test_small_moves_of_the_forward_do_not_change_every_strike() -> None:
    """All 240 options lack the broker's values; one at the money moves the forward by less than a twentieth of a percent."""
    strikes = [22_100.0 + 50 * number for number in range(120)]
    chain = a_chain(strikes)
    assert all(row.call and row.put and row.call.computed and row.put.computed for row in chain.rows())
    at = strikes.index(25_100.0)
    seen = chain.seq
    chain.take(2 * at + 1, bare(25_113.0, 25_100.0, CALL), NOW_MS + 500)
    assert strikes_of(chain.rows(newer_than=seen)) == [25_100.0]
    seen = chain.seq
    chain.take(2 * at + 1, bare(25_114.0, 25_100.0, CALL), NOW_MS + VALUES_MS)  # a minute later all are due
    assert len(chain.rows(newer_than=seen)) > 100


def test_after_the_end_of_trading_nothing_is_computed() -> None:
    chain = a_chain()
    assert chain.aggregate().atm_iv is not None
    chain.take_spot(25_081.0, ENDS_MS)
    for row in chain.rows():
        assert row.call is not None
        assert row.call.implied_volatility is None
        assert not row.call.computed
    assert chain.aggregate().forward == pytest.approx(25_110.0)
    assert (chain.aggregate().atm_iv, chain.aggregate().gamma_exposure) == (None, None)


# --- however it came ------------------------------------------------------------------------------------------------
PRICES = st.one_of(st.none(), st.integers(0, 8_000).map(lambda ticks: ticks * 0.05))
TRADED = st.integers(0, 10**5).map(lambda lots: lots * 65)
UNITS = st.one_of(st.none(), TRADED)
BROKERS = st.fixed_dictionaries(
    {
        "implied_volatility": st.floats(0.05, 0.6),
        "delta": st.floats(-1, 1),
        "theta": st.floats(-50, 0),
        "gamma": st.floats(0, 0.01),
        "vega": st.floats(0, 30),
        "rho": st.floats(-5, 5),
    }
)
NOBODYS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"implied_volatility": st.sampled_from([None, 0.0])})


def quotes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[OptionQuote]:
    figures: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "last_price": PRICES,
            "previous_close": PRICES,
            "bid_price": PRICES,
            "ask_price": PRICES,
            "volume": UNITS,
            "open_interest": st.one_of(st.none(), TRADED.map(float)),
        }
    )
    return st.tuples(figures, values).map(lambda both: OptionQuote(**both[0], **both[1]))


INSTRUMENTS = st.integers(1, 2 * len(STRIKES))
SPOTS = st.one_of(st.none(), st.integers(24_800, 25_400).map(float))
BASES = st.dictionaries(INSTRUMENTS, st.builds(InterestBase, UNITS, UNITS), max_size=4)


def steps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """What a hub does to a chain, in any order and repetition."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("quote"), INSTRUMENTS, quotes(values)),
            st.tuples(st.just("fair"), INSTRUMENTS, st.integers(25_000, 25_200).map(float), st.integers(0, 200).map(float), values),
            st.tuples(st.just("spot"), SPOTS),
            st.tuples(st.just("bases"), BASES),
            st.tuples(st.just("later"), st.integers(0, 90_000)),
            st.tuples(st.just("read")),
        ),
        max_size=40,
    )


class Played:
    """A chain that was stepped through, what was last told to it, and what a reader of changes alone has seen of it."""

    def __init__(self, done: list[tuple[Any, ...]]) -> None:
        self.chain = Chain(ladder(STRIKES), interest_rate=0.065)
        self.quotes: dict[int, OptionQuote] = {}
        self.bases: dict[int, InterestBase] = {}
        self.spot: float | None = None
        self.now_ms = NOW_MS
        self.seen: dict[float, Row] = {}
        self.seen_seq = -1
        for step in done:
            getattr(self, f"do_{step[0]}")(*step[1:])
        for spot in (1.0, self.spot):
            self.chain.take_spot(spot, self.now_ms + HOLD_MS + 1)  # no forward is held any more
        self.do_read()

    def do_quote(self, instrument: int, quote: OptionQuote) -> None:
        self.quotes[instrument] = quote
        for _ in range(2):
            self.chain.take(instrument, quote, self.now_ms)

    def do_fair(self, instrument: int, forward: float, hope: float, values: dict[str, Any]) -> None:
        strike, side = STRIKES[(instrument - 1) // 2], CALL if instrument % 2 else PUT
        self.do_quote(instrument, bare(forward, strike, side, hope)._replace(**values))

    def do_spot(self, price: float | None) -> None:
        self.spot = price
        self.chain.take_spot(price, self.now_ms)

    def do_bases(self, bases: dict[int, InterestBase]) -> None:
        self.bases |= bases
        self.chain.take_bases(bases)

    def do_later(self, ms: int) -> None:
        self.now_ms += ms

    def do_read(self) -> None:
        news = self.chain.rows(newer_than=self.seen_seq)
        for row in news:
            assert row.stamp > self.seen_seq
            self.seen[row.strike_price] = row
        self.chain.aggregate()
        self.seen_seq = self.chain.seq

    def anew(self) -> Chain:
        """The chain of the last quotes alone."""
        chain = Chain(ladder(STRIKES), interest_rate=0.065)
        chain.take_bases(self.bases)
        for instrument in sorted(self.quotes, reverse=True):
            chain.take(instrument, self.quotes[instrument], self.chain.market_ms)
        chain.take_spot(self.spot, self.chain.market_ms)
        return chain


def sides(rows: list[Row]) -> list[tuple[Side | None, Side | None]]:
    return [(row.call, row.put) for row in rows]


@given(steps(BROKERS))
def test_any_order_of_quotes_gives_the_chain_of_the_last_ones(done: list[tuple[Any, ...]]) -> None:
    played = Played(done)
    assert sides(played.chain.rows()) == sides(played.anew().rows())
    assert played.chain.aggregate() == played.anew().aggregate()


@given(steps(st.one_of(BROKERS, NOBODYS)))
def test_a_reader_of_changes_has_seen_all(done: list[tuple[Any, ...]]) -> None:
    played = Played(done)
    rows = played.chain.rows()
    assert strikes_of(rows) == STRIKES
    assert [played.seen[row.strike_price] for row in rows] == rows
    assert all(played.seen[row.strike_price] is row for row in rows)
    assert played.chain.rows(newer_than=played.seen_seq) == []


@given(steps(NOBODYS))
def test_computed_values_belong_to_the_last_price_or_the_book_and_a_forward_hardly_moved(done: list[tuple[Any, ...]]) -> None:
    """How it came makes no other difference: each volatility lies between those that its price, or the book's
    middle, has at the ends of the leeway."""
    played = Played(done)
    fresh = played.anew()
    forward = fresh.aggregate().forward
    for row, other in zip(played.chain.rows(), fresh.rows(), strict=True):
        for name, mine, anew in ((CALL, row.call, other.call), (PUT, row.put, other.put)):
            assert mine is not None
            assert anew is not None
            assert unvalued(mine) == unvalued(anew)
            if mine.computed:
                assert forward is not None
                assert is_near(mine, name, row.strike_price, forward, played.chain.market_ms)


def unvalued(side: Side) -> Side:
    return side._replace(implied_volatility=None, delta=None, gamma=None, theta=None, vega=None, rho=None, computed=False)


def is_near(side: Side, name: str, strike: float, forward: float, now_ms: int) -> bool:
    found = []
    for ms in (now_ms, now_ms - VALUES_MS):
        years = years_left(ENDS_MS, ms)
        for moved in (1 - 1.01 * FORWARD_MOVED, 1 + 1.01 * FORWARD_MOVED):
            market = Market(forward * moved, years, discount_factor(0.065, years))
            bid, ask, mark = side.bid_price or 0.0, side.ask_price or 0.0, side.last_price or 0.0
            middle = (bid + ask) / 2 if 0 < bid < ask else 0.0
            if mark and middle and not bid <= mark <= ask:
                mark = bid if mark < bid else ask
            volatility = implied_volatility(name, strike, mark, market)
            if volatility is None:  # the price is at its intrinsic value there, or below: the book tells
                found += [0.0, implied_volatility(name, strike, middle, market) or 0.0]
            else:
                found.append(volatility)
    return min(found) * 0.9999 - 1e-6 <= (side.implied_volatility or 0.0) <= max(found) * 1.0001 + 1e-6


@pytest.mark.realdata
def test_values_computed_from_real_prices_are_near_the_brokers() -> None:
    """The captured options with the broker's values taken away: what is computed at the parity forward, against what the broker sent."""
    off: dict[str, list[float]] = {"implied_volatility": [], "delta": [], "theta": [], "vega": [], "rho": []}
    for underlying in CAPTURED:
        chain = Chain(captured_listing(underlying), interest_rate=0.0)
        sent: dict[int, OptionQuote] = {}
        instruments = {option.key: option.instrument for option in chain.listing.options}
        for now_ms, feeds in captured_frames():
            for key in instruments.keys() & feeds.keys():
                sent[instruments[key]] = quote = captured_quote(feeds[key])
                stripped = quote._replace(implied_volatility=0.0, delta=None, theta=None, gamma=None, vega=None, rho=None)
                chain.take(instruments[key], stripped, now_ms)
        for row in chain.rows():
            for side in (row.call, row.put):
                assert side is not None
                assert side.computed
                for name, values in off.items():
                    theirs = getattr(sent[side.instrument], name)
                    values.append(abs(getattr(side, name) / theirs - 1))
    print({name: f"median {median(values):.2%}, most {max(values):.2%}" for name, values in off.items()})
    assert len(off["delta"]) == 32
    assert all(median(values) < 0.03 for values in off.values())
    assert all(max(values) < 0.10 for values in off.values())
