"""The pipeline: what changed is drained once, merged, with its depth flag; market time goes on, whatever one clock says."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from broker.pipeline import LEAP_MS, Pipeline
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


def test_a_leap_is_doubted_until_a_second_frame_says_the_same() -> None:
    pipeline, doubts = Pipeline(), []
    for broker_ms in (T0, T0 + 18 * LEAP_MS, T0 + 20, T0 + 18 * LEAP_MS, T0 + 18 * LEAP_MS + 1, T0 + 18 * LEAP_MS + 2):
        pipeline.apply(decode(frame({"A": option_feed()}, broker_ms=broker_ms), IDS))
        doubts.append(pipeline.doubts)
    assert doubts == [False, True, False, True, False, False]


YEAR_2096 = 4_000_000_000_000


def _market_times(*clocks: int) -> list[int]:
    """Market time after a frame of each of these broker's clocks."""
    pipeline, times = Pipeline(), []
    for broker_ms in clocks:
        pipeline.apply(decode(frame({"A": option_feed()}, broker_ms=broker_ms), IDS))
        times.append(pipeline.market_ms)
    return times


def test_one_wrong_clock_moves_neither_market_time_nor_a_quotes() -> None:
    pipeline = Pipeline()
    for broker_ms in (T0, YEAR_2096, T0 + 20, YEAR_2096):
        pipeline.apply(decode(frame({"A": option_feed()}, broker_ms=broker_ms), IDS))
    assert (pipeline.market_ms, pipeline.quotes[1].broker_ms) == (T0 + 20, T0 + 20)


def test_a_leap_that_the_next_frame_confirms_is_market_time() -> None:
    morning = T0 + 18 * LEAP_MS
    assert _market_times(T0, morning, morning + 1, morning + 2) == [T0, T0, morning + 1, morning + 2]
    assert _market_times(T0, YEAR_2096, morning, morning + 1) == [T0, T0, T0, morning + 1]
    assert _market_times(T0, 0, T0 + 1) == [T0, T0, T0 + 1], "no time says nothing"


def test_a_run_that_begins_with_wrong_clocks_finds_the_right_one() -> None:
    assert _market_times(YEAR_2096, YEAR_2096, T0, T0 + 1, T0 + 2)[-2:] == [T0 + 1, T0 + 2]
    pipeline = Pipeline()
    for broker_ms, volume in ((YEAR_2096, 750), (T0, 900)):
        pipeline.apply(decode(frame({"A": option_feed(volume=volume)}, broker_ms=broker_ms), IDS))
    assert pipeline.quotes[1].broker_ms == T0


@given(st.lists(st.tuples(st.integers(0, LEAP_MS), st.booleans()), min_size=1, max_size=20), st.integers(T0 + 30 * LEAP_MS, YEAR_2096))
def test_market_time_is_the_newest_right_clock_whichever_single_frames_are_wrong(steps: list[tuple[int, bool]], wrong_ms: int) -> None:
    right = list(accumulate((step for step, _ in steps), initial=T0))
    clocks = [T0]
    for clock, (_, is_wrong) in zip(right[1:], steps, strict=True):
        clocks += [wrong_ms, clock] if is_wrong else [clock]
    assert _market_times(*clocks)[-1] == right[-1]


def test_segments_are_merged_from_market_info() -> None:
    pipeline = Pipeline()
    for name, status in (("NSE_FO", pb.NORMAL_OPEN), ("NSE_EQ", pb.PRE_OPEN_START), ("NSE_FO", pb.NORMAL_CLOSE)):
        response = pb.FeedResponse(type=pb.market_info, currentTs=1)
        response.marketInfo.segmentStatus[name] = status
        pipeline.apply(decode(response.SerializeToString(), {}))
    assert pipeline.segments == {"NSE_FO": "NORMAL_CLOSE", "NSE_EQ": "PRE_OPEN_START"}


def test_auctions_are_merged_from_market_info() -> None:
    pipeline = Pipeline()
    for segment, status, since_ms in (
        ("NSE_EQ", "CTS_CLOSE", 1_769_160_569_400),
        ("BSE_EQ", "CTS_CLOSE", 1_769_160_569_401),
        ("NSE_EQ", "CAS_STOP", 1_769_160_569_402),
    ):
        response = pb.FeedResponse(type=pb.market_info, currentTs=1)
        response.marketInfo.casMarketStatus[segment].CopyFrom(pb.StatusInfo(status=status, updatedTime=since_ms))
        pipeline.apply(decode(response.SerializeToString(), {}))
    assert pipeline.auctions == {"NSE_EQ:CAS": ("CAS_STOP", 1_769_160_569_402), "BSE_EQ:CAS": ("CTS_CLOSE", 1_769_160_569_401)}


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
