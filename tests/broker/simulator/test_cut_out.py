"""A stretch of a replay is kept from the socket, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from broker.simulator.cut_out import CutOutReplay, Stretch
from broker.simulator.source import Bar
from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.broker.simulator.feed_client import open_feed, receive_until, request
from tests.fakes.exchange import StartExchange, start_exchange  # noqa: F401

KEY = "NSE_FO|a"
TEN = 1_765_773_000_000
"""2025-12-15 10:00 IST."""


def frame(minute: int) -> bytes:
    """The frame of a minute after ten; it carries the bar of the minute before."""
    response = pb.FeedResponse(type=pb.live_feed, currentTs=TEN + minute * 60_000)
    market = response.feeds[KEY].fullFeed.marketFF
    market.ltpc.ltp = 100 + minute
    market.marketOHLC.ohlc.add(interval="I1", open=1, high=4, low=1, close=minute, vol=75, ts=response.currentTs - 60_000)
    return response.SerializeToString()


def test_the_stretch_is_not_sent_and_its_minutes_are_known_afterwards() -> None:
    replay = CutOutReplay([frame(minute) for minute in range(8)], Stretch.parse("10:02-10:05"), speed=0)
    sent = replay.due(1000, {KEY})
    assert [(update.broker_ms - TEN) // 60_000 for update in sent] == [0, 1, 5, 6, 7]
    assert replay.finished()
    unbroken = [Bar(TEN + minute * 60_000, 1, 4, 1, minute + 1, 75, 0) for minute in range(-1, 7)]
    assert replay.minute_bars(KEY, 0, 2**53) == unbroken


def test_the_market_goes_on_unseen_in_the_stretch() -> None:
    replay = CutOutReplay([frame(minute) for minute in range(8)], Stretch.parse("10:02-10:05"), speed=60)
    times = []
    for second in range(7):
        replay.due(1000 + second * 1000, {KEY})
        times.append(((replay.now_ms() - TEN) // 60_000, bool(replay.snapshot({KEY}))))
    assert times == [(0, True), (1, True), (2, False), (3, False), (4, False), (5, True), (6, True)]


@pytest.mark.parametrize(
    "text", ["", "10:00", "10:00-", "-10:00", "10:10-10:00", "10:00-10:00", "1:00-2:00", "25:00-26:00", "10:60-11:00", "aa:bb-cc:dd", "-"]
)
def test_what_is_no_stretch_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HH:MM|is no time of day|does not end after it begins"):
        Stretch.parse(text)


def test_a_stretch_is_of_indian_time_and_ends_before_its_end() -> None:
    stretch = Stretch.parse("10:02-10:05")
    assert [stretch.holds(TEN + ms) for ms in (119_999, 120_000, 299_999, 300_000)] == [False, True, True, False]


def test_the_intraday_candles_hold_what_the_socket_did_not_send(
    start_exchange: StartExchange,  # noqa: F811
    tmp_path: Path,
) -> None:
    rows = [MessageToDict(pb.FeedResponse.FromString(frame(minute))) for minute in range(8)]
    recording = tmp_path / "frames.json"
    recording.write_text(json.dumps(rows))
    exchange = start_exchange("--replay", str(recording), "--speed", "0", "--cut-out", "10:02-10:05")
    with open_feed(exchange) as connection:
        connection.send(request("sub", [KEY], "full"))
        frames = receive_until(connection, lambda got: bool(got) and got[-1].currentTs == TEN + 7 * 60_000 and KEY in got[-1].feeds)
    assert [(got.currentTs - TEN) // 60_000 for got in frames if KEY in got.feeds] == [0, 1, 5, 6, 7]
    candles = exchange.get(f"/v3/historical-candle/intraday/{KEY}/minutes/1").raise_for_status().json()["data"]["candles"]
    assert [candle[0][11:16] for candle in candles] == ["10:06", "10:05", "10:04", "10:03", "10:02", "10:01", "10:00", "09:59"]
