"""The pipeline: what changed is drained once, merged, with its depth flag; market time never steps back."""

from __future__ import annotations

from broker.pipeline import Pipeline
from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.decode import decode
from tests.payloads import frame, option_feed

IDS = {"A": 1, "B": 2}
T0 = 1_769_160_569_000


def test_changes_between_two_drains_merge() -> None:
    pipeline = Pipeline()
    pipeline.apply(decode(frame({"A": option_feed(), "B": option_feed()}, broker_ms=T0 + 10), IDS))
    partial = option_feed(last_price=103, volume=900)
    partial.fullFeed.marketFF.ClearField("marketLevel")
    pipeline.apply(decode(frame({"A": partial}, broker_ms=T0 + 20), IDS))
    changes = {quote.instrument: (quote.seq, depth) for quote, depth in pipeline.drain()}
    assert changes == {1: (2, True), 2: (1, True)}
    assert pipeline.waiting == 0
    assert pipeline.drain() == []


def test_market_time_never_steps_back() -> None:
    pipeline = Pipeline()
    for broker_ms in (T0 + 10, T0 + 30, T0 + 20):
        pipeline.apply(decode(frame({"A": option_feed()}, broker_ms=broker_ms), IDS))
    assert pipeline.market_ms == T0 + 30


def test_segments_are_merged_from_market_info() -> None:
    pipeline = Pipeline()
    for name, status in (("NSE_FO", pb.NORMAL_OPEN), ("NSE_EQ", pb.PRE_OPEN_START), ("NSE_FO", pb.NORMAL_CLOSE)):
        response = pb.FeedResponse(type=pb.market_info, currentTs=1)
        response.marketInfo.segmentStatus[name] = status
        pipeline.apply(decode(response.SerializeToString(), {}))
    assert pipeline.segments == {"NSE_FO": "NORMAL_CLOSE", "NSE_EQ": "PRE_OPEN_START"}


def test_what_is_forgotten_is_not_drained() -> None:
    pipeline = Pipeline()
    pipeline.apply(decode(frame({"A": option_feed(), "B": option_feed()}), IDS))
    pipeline.forget({1})
    assert [quote.instrument for quote, _ in pipeline.drain()] == [2]
    assert set(pipeline.quotes) == {2}


def test_an_instrument_that_comes_back_goes_on_counting() -> None:
    pipeline = Pipeline()
    for price in (101, 102, 103):
        pipeline.apply(decode(frame({"A": option_feed(last_price=price)}), IDS))
    pipeline.forget({1})
    pipeline.apply(decode(frame({"A": option_feed(last_price=101)}), IDS))
    assert [(quote.instrument, quote.seq) for quote, _ in pipeline.drain()] == [(1, 4)]


def test_every_tick_is_counted_as_one_thing() -> None:
    pipeline = Pipeline()
    older = option_feed(volume=600, last_trade_ms=1_769_160_560_000)
    for number, feeds in enumerate(
        (
            {"A": option_feed(), "B": option_feed()},
            {"A": option_feed(volume=900)},
            {"A": option_feed(volume=900)},
            {"A": older},
            {"?": older},
        )
    ):
        pipeline.apply(decode(frame(feeds, broker_ms=T0 + number), IDS))
    assert pipeline.counts == {
        "ticks_changed_total": 3,
        "repeated_total": 1,
        "out_of_order_total": 1,
        "ticks_unknown_total": 1,
        "merged_total": 1,
        "quotes_forgotten_total": 0,
    }
    assert pipeline.waiting == 2
    pipeline.forget({1, 5})
    assert (pipeline.waiting, pipeline.counts["quotes_forgotten_total"]) == (1, 1)
