"""Folding ticks into a quote: nothing known is blanked, nothing old comes back, nothing equal counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.decode import decode
from marketdata.domain.quote import CHANGED, DEPTH_CHANGED, FIELDS, OUT_OF_ORDER, REPEATED, Quote
from marketdata.domain.tick import Tick
from tests.payloads import frame, option_feed

DAY_MS = 86_400_000
T0 = 1_769_160_569_162


def _tick(feed: pb.Feed) -> Tick:
    return decode(frame({"K": feed}), {"K": 1}).ticks[0]


def _value(quote: Quote, name: str) -> object:
    return quote.values[FIELDS.index(name)]


def test_a_partial_tick_blanks_nothing() -> None:
    quote = Quote(1)
    assert quote.apply(_tick(option_feed()), 1) == CHANGED | DEPTH_CHANGED
    partial = option_feed(last_price=102, volume=825)
    partial.fullFeed.marketFF.ClearField("marketLevel")
    partial.fullFeed.marketFF.ClearField("optionGreeks")
    assert quote.apply(_tick(partial), 2) == CHANGED
    assert (_value(quote, "last_price"), _value(quote, "delta"), _value(quote, "bid_price")) == (102, 0.51, 101.4)
    assert len(quote.depth.levels()) == 5
    assert quote.seq == 2


def test_a_book_that_lost_a_side_has_no_best_price_there() -> None:
    quote = Quote(1)
    quote.apply(_tick(option_feed()), 1)
    one_sided = option_feed(volume=825)
    for level in one_sided.fullFeed.marketFF.marketLevel.bidAskQuote:
        level.ClearField("bidP")
        level.ClearField("bidQ")
    assert quote.apply(_tick(one_sided), 2) == CHANGED | DEPTH_CHANGED
    assert (_value(quote, "bid_price"), _value(quote, "bid_quantity"), _value(quote, "ask_quantity")) == (None, None, 150)


def test_an_equal_tick_does_not_count() -> None:
    quote = Quote(1)
    quote.apply(_tick(option_feed()), 1)
    assert quote.apply(_tick(option_feed()), 2) == REPEATED
    assert (quote.seq, quote.broker_ms) == (1, 2)


def test_a_change_of_depth_alone_is_a_change() -> None:
    quote = Quote(1)
    quote.apply(_tick(option_feed()), 1)
    feed = option_feed()
    feed.fullFeed.marketFF.marketLevel.bidAskQuote[4].bidQ += 75
    assert quote.apply(_tick(feed), 2) == CHANGED | DEPTH_CHANGED


def test_a_step_back_changes_nothing_and_is_told() -> None:
    quote = Quote(1)
    quote.apply(_tick(option_feed(volume=900, last_price=105, last_trade_ms=T0 + 5000)), 1)
    assert quote.apply(_tick(option_feed(volume=750, last_price=101, last_trade_ms=T0)), 2) == OUT_OF_ORDER
    assert quote.apply(_tick(option_feed(volume=825, last_price=101, last_trade_ms=T0 + 5000)), 3) == OUT_OF_ORDER
    assert (_value(quote, "last_price"), quote.seq) == (105, 1)


def test_the_next_day_and_a_snapshot_begin_with_less_volume() -> None:
    quote = Quote(1)
    quote.apply(_tick(option_feed(volume=9000)), 1)
    assert quote.apply(_tick(option_feed(volume=75, last_trade_ms=T0 + DAY_MS)), 2) & CHANGED
    assert quote.apply(_tick(option_feed(volume=50, last_trade_ms=T0)), 3, snapshot=True) & CHANGED
    assert _value(quote, "volume") == 50


@given(st.permutations(range(8)))
def test_the_newest_update_wins_in_any_order_of_arrival(order: list[int]) -> None:
    quote = Quote(1)
    for number in order:
        feed = option_feed(volume=1000 + number, last_price=100 + number, last_trade_ms=T0 + number * 1000)
        quote.apply(_tick(feed), number)
    assert _value(quote, "last_price") == 107
    assert _value(quote, "volume") == 1007


def test_one_trade_of_a_wrong_clock_makes_no_later_one_old() -> None:
    quote = Quote(1)
    clocks = (T0, 4_000_000_000_000, T0 + 2000, T0 + 3000)
    told = [quote.apply(_tick(option_feed(volume=900 + n, last_trade_ms=ms)), T0 + n * 1000) for n, ms in enumerate(clocks)]
    assert [change & CHANGED for change in told] == [CHANGED] * 4
    assert _value(quote, "last_trade_ms") == T0 + 3000
