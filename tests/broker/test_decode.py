"""Decoding, against frames made by hand and against the official SDK's reading of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.decode import Frame, decode
from broker.upstox.protocol import ProtocolViolation
from marketdata.domain.tick import Tick, TickKind
from tests.payloads import frame, option_feed, recorded_frames

KEY = "NSE_FO|51420"


def _one(feed: pb.Feed) -> Tick:
    decoded = decode(frame({KEY: feed}), {KEY: 7})
    (tick,) = decoded.ticks
    return tick


def test_a_full_update_becomes_a_tick_with_every_field_in_its_place() -> None:
    decoded = decode(frame({KEY: option_feed()}), {KEY: 7})
    (tick,) = decoded.ticks
    assert decoded.broker_ms == 1_769_160_569_400
    assert decoded.kind is TickKind.LIVE
    assert list(tick[:-1]) == [
        7, 0, 1_769_160_569_162, 101.5, 75, 99.25, 750, 100.75, 12_000.0, 0.125, 0.51, -12.5, 0.0007, 9.25, 1.5,
        101.4, 75, pytest.approx(101.6), 150, 5_000.0, 6_000.0, 98.0, 110.0, 95.5,
    ]  # fmt: skip
    assert list(tick.depth.levels()[1]) == [pytest.approx(101.35), 76, pytest.approx(101.65), 151]
    assert len(tick.depth.levels()) == 5


def test_the_finished_minute_comes_as_a_confirmed_candle() -> None:
    (bar,) = decode(frame({KEY: option_feed()}), {KEY: 7}).bars
    assert bar == (7, "1m", 1_769_160_480_000, 100.0, 102.0, 99.5, 101.0, 300, 12_000.0, "confirmed", 0, None)


def test_a_bar_before_the_first_trade_is_none() -> None:
    feed = option_feed()
    feed.fullFeed.marketFF.marketOHLC.ohlc[1].Clear()
    feed.fullFeed.marketFF.marketOHLC.ohlc[1].interval = "I1"
    assert decode(frame({KEY: feed}), {KEY: 7}).bars == []


def test_a_finished_minute_is_given_once_and_again_when_it_changes() -> None:
    minutes: dict[int, bytes] = {}
    changed = option_feed()
    changed.fullFeed.marketFF.marketOHLC.ohlc[1].vol += 75
    later = option_feed()
    later.fullFeed.marketFF.marketOHLC.ohlc[1].ts += 60_000
    volumes = [
        [bar.volume for bar in decode(frame({KEY: feed}), {KEY: 7}, minutes).bars] for feed in (option_feed(), option_feed(), changed)
    ]
    assert volumes == [[300], [], [375]]
    assert [bar.start_ms for bar in decode(frame({KEY: later}), {KEY: 7}, minutes).bars] == [1_769_160_540_000]
    assert len(decode(frame({KEY: option_feed()}), {KEY: 7}).bars) == 1


@pytest.mark.parametrize("zero", ["open", "high", "low", "close", "vol", "ts", "nothing"])
def test_the_day_is_read_whatever_is_zero(zero: str) -> None:
    feed = option_feed()
    if zero != "nothing":
        feed.fullFeed.marketFF.marketOHLC.ohlc[0].ClearField(zero)  # type: ignore[arg-type]
    tick = _one(feed)
    expected = {"open": 98.0, "high": 110.0, "low": 95.5} | {zero: None}
    assert (tick.day_open, tick.day_high, tick.day_low) == (expected["open"], expected["high"], expected["low"])


def test_a_bar_whose_bytes_are_no_bar_harms_nothing_else() -> None:
    feed = option_feed()
    minute = feed.fullFeed.marketFF.marketOHLC.ohlc[1].SerializeToString()
    whole = frame({KEY: feed, "NSE_FO|1": option_feed(volume=900)})
    damaged = whole.replace(minute, b"\x0a\xff" + minute[2:])
    assert damaged != whole
    decoded = decode(damaged, {KEY: 7, "NSE_FO|1": 8})
    assert [(tick.instrument, tick.volume) for tick in decoded.ticks] == [(8, 900), (7, 750)]
    assert decoded.bars == []


def test_bars_that_another_writer_lays_out_otherwise_are_read_the_same() -> None:
    usual = option_feed()
    (day, minute) = (bar.SerializeToString() for bar in usual.fullFeed.marketFF.marketOHLC.ohlc)
    fields = [day[start : start + 9] for start in (4, 13, 22, 31)]
    other = day[:4] + b"".join(reversed(fields)) + day[40:]
    assert pb.OHLC.FromString(other) == pb.OHLC.FromString(day)
    whole = frame({KEY: usual})
    swapped = whole.replace(day, other)
    assert swapped != whole
    assert decode(swapped, {KEY: 7}).ticks[0][-4:-1] == decode(whole, {KEY: 7}).ticks[0][-4:-1] == (98.0, 110.0, 95.5)
    assert minute in swapped


def test_what_a_partial_frame_leaves_out_is_unknown_not_zero() -> None:
    feed = option_feed()
    feed.fullFeed.marketFF.ClearField("marketLevel")
    feed.fullFeed.marketFF.ClearField("optionGreeks")
    feed.fullFeed.marketFF.tbq = 0
    tick = _one(feed)
    assert tick.delta is None
    assert tick.bid_price is None
    assert tick.total_buy_quantity is None
    assert not tick.depth
    feed.fullFeed.marketFF.ClearField("ltpc")
    feed.fullFeed.marketFF.vtt = 0
    tick = _one(feed)
    assert (tick.last_price, tick.last_quantity, tick.volume) == (None, None, None)


def test_a_real_zero_beside_its_group_is_zero() -> None:
    feed = option_feed(volume=0)
    feed.fullFeed.marketFF.tbq = 0
    tick = _one(feed)
    assert tick.volume == 0
    assert tick.total_buy_quantity == 0


@pytest.mark.parametrize("wrong_ms", [-1, 5, 2**62, 4_102_444_800_000])
def test_a_time_that_is_no_time_is_unknown_and_makes_no_candle(wrong_ms: int) -> None:
    feed = option_feed(last_trade_ms=wrong_ms)
    feed.fullFeed.marketFF.marketOHLC.ohlc[1].ts = wrong_ms
    decoded = decode(frame({KEY: feed}, broker_ms=wrong_ms), {KEY: 7})
    assert (decoded.broker_ms, decoded.ticks[0].last_trade_ms, decoded.bars) == (0, None, [])
    assert decoded.ticks[0].last_price == 101.5


@pytest.mark.parametrize(("past_ms", "believed"), [(0, True), (86_400_000 - 1, True), (86_400_001, False), (10**12, False)])
def test_a_trade_more_than_a_day_past_its_frame_is_of_an_unknown_time(past_ms: int, believed: bool) -> None:
    broker_ms = 1_769_160_569_400
    feed, index, price = option_feed(last_trade_ms=broker_ms + past_ms), pb.Feed(), pb.Feed()
    index.fullFeed.indexFF.ltpc.CopyFrom(feed.fullFeed.marketFF.ltpc)
    price.ltpc.CopyFrom(feed.fullFeed.marketFF.ltpc)
    greeks = pb.Feed()
    greeks.firstLevelWithGreeks.ltpc.CopyFrom(price.ltpc)
    ticks = decode(frame({"a": feed, "b": index, "c": price, "d": greeks}, broker_ms=broker_ms), {"a": 1, "b": 2, "c": 3, "d": 4}).ticks
    assert [tick.last_trade_ms for tick in ticks] == [broker_ms + past_ms if believed else None] * 4
    assert [tick.last_price for tick in ticks] == [101.5] * 4
    assert ticks[0].last_quantity == 75


def test_a_frame_without_time_has_its_trades_believed() -> None:
    assert decode(frame({KEY: option_feed()}, broker_ms=0), {KEY: 7}).ticks[0].last_trade_ms == 1_769_160_569_162


DAY = pb.OHLC(interval="1d", open=10.5, high=12.25, low=9.75, close=11.0, vol=7_500, ts=1_769_106_600_000)
MINUTE = pb.OHLC(interval="I1", open=10.0, high=11.0, low=9.5, close=10.75, vol=150, ts=1_769_160_480_000)
LATER = pb.OHLC(interval="I1", open=11.0, high=11.0, low=11.0, close=11.0, ts=1_769_160_540_000)


@pytest.mark.parametrize(
    ("second", "day", "starts"),
    [
        ([DAY, MINUTE], (10.5, 12.25, 9.75), []),
        ([DAY, LATER], (10.5, 12.25, 9.75), [LATER.ts]),
        ([MINUTE, DAY], (10.5, 12.25, 9.75), []),
        ([MINUTE], (None, None, None), []),
        ([DAY], (10.5, 12.25, 9.75), []),
        ([], (None, None, None), []),
        ([pb.OHLC(interval="1d", open=10.5), MINUTE], (10.5, None, None), []),
        ([pb.OHLC(), MINUTE], (None, None, None), []),
        ([DAY, LATER, MINUTE], (10.5, 12.25, 9.75), [LATER.ts]),
        ([pb.OHLC(interval="1w", open=1.0, high=2.0, low=0.5, close=1.0), MINUTE], (None, None, None), []),
        ([pb.OHLC(interval="1d" * 80, open=1.0, high=2.0, low=0.5), MINUTE], (None, None, None), []),
    ],
)
def test_bars_in_any_order_and_number_are_read_the_same(second: list[pb.OHLC], day: tuple[float | None, ...], starts: list[int]) -> None:
    minutes: dict[int, bytes] = {}
    for bars in ([DAY, MINUTE], second):
        feed = option_feed()
        del feed.fullFeed.marketFF.marketOHLC.ohlc[:]
        feed.fullFeed.marketFF.marketOHLC.ohlc.extend(bars)
        decoded = decode(frame({KEY: feed}), {KEY: 7}, minutes)
    (tick,) = decoded.ticks
    assert (tick.day_open, tick.day_high, tick.day_low) == day
    assert [bar.start_ms for bar in decoded.bars] == starts


def test_bars_that_are_none_cost_only_themselves() -> None:
    feed = option_feed()
    feed.fullFeed.marketFF.ClearField("marketOHLC")
    whole = feed.fullFeed.marketFF.SerializeToString() + b"\x22\x03\x0a\x7f\x00"  # marketOHLC, cut off
    market = b"\x0a" + _varint(len(whole)) + whole
    full = b"\x12" + _varint(len(market)) + market
    entry = b"\x0a" + _varint(len(KEY)) + KEY.encode() + b"\x12" + _varint(len(full)) + full
    decoded = decode(b"\x08\x01\x12" + _varint(len(entry)) + entry, {KEY: 7})
    (tick,) = decoded.ticks
    assert (tick.last_price, tick.day_open, decoded.bars) == (feed.fullFeed.marketFF.ltpc.ltp, None, [])


def _varint(number: int) -> bytes:
    return bytes((number & 0x7F | 0x80, number >> 7)) if number > 127 else bytes((number,))


@given(st.lists(st.sampled_from([0.0, 0.25, -1.5, 3e-9]), min_size=5, max_size=5))
def test_greeks_are_read_whichever_of_them_are_zero(values: list[float]) -> None:
    feed = option_feed()
    names = ("delta", "theta", "gamma", "vega", "rho")
    feed.fullFeed.marketFF.optionGreeks.CopyFrom(pb.OptionGreeks(**dict(zip(names, values, strict=True))))
    tick = _one(feed)
    assert [tick.delta, tick.theta, tick.gamma, tick.vega, tick.rho] == (values if any(values) else [None] * 5)


def test_a_contract_that_never_traded_has_no_last_price() -> None:
    assert _one(option_feed(last_price=0, last_trade_ms=0)).last_price is None


def test_an_index_has_neither_quantity_nor_depth() -> None:
    feed = pb.Feed()
    feed.fullFeed.indexFF.ltpc.ltp = 25_048.65
    feed.fullFeed.indexFF.ltpc.ltt = 1_769_160_569_000
    tick = _one(feed)
    assert (tick.last_price, tick.last_quantity, tick.volume, tick.depth.levels()) == (25_048.65, None, None, ())


def test_the_lesser_modes_are_read_too() -> None:
    ltpc = pb.Feed()
    ltpc.ltpc.ltp, ltpc.ltpc.ltt, ltpc.ltpc.ltq, ltpc.ltpc.cp = 5.5, 1_769_160_569_000, 10, 5.25
    assert _one(ltpc)[:6] == (7, 0, 1_769_160_569_000, 5.5, 10, 5.25)
    greeks = pb.Feed()
    greeks.firstLevelWithGreeks.ltpc.CopyFrom(ltpc.ltpc)
    greeks.firstLevelWithGreeks.firstDepth.CopyFrom(pb.Quote(bidQ=1, bidP=5.4, askQ=2, askP=5.6))
    greeks.firstLevelWithGreeks.optionGreeks.delta = 0.4
    greeks.firstLevelWithGreeks.iv = 0.2
    tick = _one(greeks)
    assert (tick.delta, tick.implied_volatility, tick.bid_price, tick.ask_quantity) == (0.4, 0.2, 5.4, 2)


def test_ranks_follow_the_byte_order_of_all_keys_known_or_not() -> None:
    feeds = {key: option_feed() for key in ("NSE_FO|9", "BSE_FO|1", "NSE_FO|10")}
    decoded = decode(frame(feeds), {"NSE_FO|9": 1, "NSE_FO|10": 2})
    assert [(tick.instrument, tick.rank) for tick in decoded.ticks] == [(2, 1), (1, 2)]
    assert decoded.unknown == ("BSE_FO|1",)


def test_market_info_gives_segments_and_no_tick() -> None:
    response = pb.FeedResponse(type=pb.market_info, currentTs=1_769_160_569_400)
    response.marketInfo.segmentStatus["NSE_FO"] = pb.NORMAL_OPEN
    response.marketInfo.segmentStatus["NSE_EQ"] = pb.PRE_OPEN_START
    response.marketInfo.segmentStatus["MCX_FO"] = 77  # type: ignore[assignment]  # of a newer schema
    decoded = decode(response.SerializeToString(), {})
    assert decoded == Frame(
        1_769_160_569_400, None, [], [], {"NSE_FO": "NORMAL_OPEN", "NSE_EQ": "PRE_OPEN_START", "MCX_FO": "STATUS_77"}, ()
    )
    assert decoded.auctions == {}


def test_market_info_tells_of_the_auctions() -> None:
    response = pb.FeedResponse(type=pb.market_info, currentTs=1_795_427_100_400)
    response.marketInfo.casMarketStatus["NSE_EQ"].CopyFrom(pb.StatusInfo(status="CTS_CLOSE", updatedTime=1_795_427_100_000))
    response.marketInfo.casMarketStatus["BSE_EQ"].status = "CTS_CLOSE"  # without its time
    response.marketInfo.preOpenSessionStatus["NSE_EQ"].CopyFrom(pb.StatusInfo(status="PRE_OPEN_M_END", updatedTime=1_795_404_900_000))
    decoded = decode(response.SerializeToString(), {})
    assert decoded.auctions == {
        "NSE_EQ:CAS": ("CTS_CLOSE", 1_795_427_100_000),
        "NSE_EQ:PRE": ("PRE_OPEN_M_END", 1_795_404_900_000),
    }
    assert (decoded.kind, decoded.segments, decoded.ticks) == (None, {}, [])


@given(st.binary(max_size=300))
def test_garbage_is_a_violation_or_an_empty_frame_but_never_a_crash(data: bytes) -> None:
    try:
        decoded = decode(data, {})
    except ProtocolViolation:
        return
    assert decoded.ticks == []


@given(st.integers(min_value=0, max_value=400))
def test_a_frame_cut_anywhere_never_crashes(length: int) -> None:
    whole = frame({KEY: option_feed()})
    try:
        decoded = decode(whole[:length], {KEY: 7})
    except ProtocolViolation:
        return
    assert len(decoded.ticks) <= 1


def test_more_keys_than_an_id_can_hold_are_refused() -> None:
    feeds = {f"NSE_FO|{number}": pb.Feed() for number in range(8192)}
    with pytest.raises(ProtocolViolation, match="8192 keys"):
        decode(frame(feeds), {})


def _sdk_figures(feed: dict[str, Any]) -> dict[str, float | None]:
    """Read a Feed as the official SDK's MessageToDict gives it, by the meanings of FACTS §3.4."""
    full = feed["fullFeed"]
    body = full.get("marketFF") or full["indexFF"]
    level = body.get("marketLevel", {}).get("bidAskQuote", [{}])[0]
    return {
        "last_price": body["ltpc"].get("ltp"),
        "last_trade_ms": int(body["ltpc"]["ltt"]),
        "previous_close": body["ltpc"].get("cp"),
        "volume": int(body["vtt"]) if "vtt" in body else None,
        "open_interest": body.get("oi"),
        "implied_volatility": body.get("iv"),
        "delta": body.get("optionGreeks", {}).get("delta"),
        "bid_price": level.get("bidP"),
        "ask_price": level.get("askP"),
        "total_buy_quantity": body.get("tbq"),
    }


def _sdk_minute(feed: dict[str, Any]) -> tuple[float, ...] | None:
    """Return start, open, high, low, close and volume of the finished minute in a Feed of the SDK."""
    full = feed["fullFeed"]
    for bar in (full.get("marketFF") or full["indexFF"]).get("marketOHLC", {}).get("ohlc", []):
        if bar["interval"] == "I1" and "ts" in bar:
            return (int(bar["ts"]), *(bar.get(name, 0.0) for name in ("open", "high", "low", "close")), int(bar.get("vol", 0)))
    return None


@pytest.mark.realdata
def test_real_frames_read_as_the_official_sdk_reads_them() -> None:
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    frames = recorded_frames()
    read = [MessageToDict(sdk.FeedResponse.FromString(data)) for data in frames]
    ids = {key: number for number, key in enumerate(sorted({key for one in read for key in one["feeds"]}), start=1)}
    compared = with_minutes = 0
    for data, expected in zip(frames, read, strict=True):
        decoded = decode(data, ids)
        assert decoded.broker_ms == int(expected["currentTs"])
        by_id = {tick.instrument: tick for tick in decoded.ticks}
        assert set(by_id) == {ids[key] for key in expected["feeds"]}
        for key, feed in expected["feeds"].items():
            tick = by_id[ids[key]]._asdict()
            assert {name: tick[name] for name in _sdk_figures(feed)} == _sdk_figures(feed), key
            compared += 1
        bars = {bar.instrument: bar[2:8] for bar in decoded.bars}
        assert bars == {ids[key]: bar for key, feed in expected["feeds"].items() if (bar := _sdk_minute(feed))}
        with_minutes += len(bars)
    assert compared == 859  # the number that the data's own description gives
    assert with_minutes > 800


@pytest.mark.long
@pytest.mark.realdata
def test_one_frame_decoded_in_two_fresh_processes_gives_the_same_ids() -> None:
    recorded_frames()  # skips here where they are absent, not in the processes
    script = (
        "import django,os,sys; os.environ.setdefault('DJANGO_SETTINGS_MODULE','tradingok.settings'); django.setup()\n"
        "from tests.payloads import recorded_frames\nfrom broker.upstox.decode import decode\n"
        "from marketdata.domain.tick import tick_id\n"
        "data = max(recorded_frames(), key=len); keys = decode(data, {}).unknown\n"
        "print([(t.instrument, tick_id(8, t.rank)) for t in decode(data, {k: hash_free for hash_free, k in enumerate(keys)}).ticks])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().count("(") >= 20
