"""Recordings pass through the exchange unchanged: what a client receives is what was recorded, and the ledger agrees."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from broker.simulator.captures import read_recording
from broker.simulator.ledger import feed_digest
from broker.simulator.replay import Replay, SnapshotUpdate
from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.decode import decode
from tests.broker.simulator.feed_client import open_feed, receive, receive_until, request
from tests.fakes.exchange import StartExchange, real_data, start_exchange  # noqa: F401

HUNDRED = "nifty_banknifty_100frames_2026-01-23.frames.bin"
HUNDRED_JSON = "nifty_banknifty_36keys_100frames_2026-01-23.mongoexport.json.gz"
SESSION_START = "session_start_market_info_then_initial_2025-03-19.jsonl"
DAYS = ["banknifty_options_NSE_FO_51414_2025-12-15.json.gz", "equity_NSE_EQ_INE118H01025_2025-12-15.json.gz"]
"""Two that are merged; tests/replay/test_whole_days.py takes all four on their whole way."""
T0 = 1_769_160_000_000


def frame(broker_ms: int, kind: pb.Type.ValueType = pb.live_feed, **prices: float) -> bytes:
    """An encoded frame with one ltpc-only full feed per key (`a=1.0` → key NSE_FO|a)."""
    response = pb.FeedResponse(type=kind, currentTs=broker_ms)
    for name, price in prices.items():
        response.feeds[f"NSE_FO|{name}"].fullFeed.marketFF.ltpc.ltp = price
    return response.SerializeToString()


def digests(frames: list[bytes] | list[pb.FeedResponse]) -> dict[str, list[tuple[int, str]]]:
    """Key → (broker_ms, digest) of each of its feeds, in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for item in frames:
        response = item if isinstance(item, pb.FeedResponse) else pb.FeedResponse.FromString(item)
        for key, feed in response.feeds.items():
            found.setdefault(key, []).append((response.currentTs, feed_digest(feed)))
    return found


# --- the port, without a socket ------------------------------------------------------------------------------------------


def test_due_sends_nothing_before_anyone_subscribes() -> None:
    replay = Replay([frame(T0, a=1), frame(T0 + 150, a=2)])
    assert replay.due(1000, set()) == []
    assert replay.due(9000, {"NSE_FO|unrecorded"}) == []
    assert not replay.finished()
    assert replay.now_ms() == T0


def test_due_follows_recorded_time_at_the_chosen_speed() -> None:
    replay = Replay([frame(T0 + i * 100, a=float(i + 1)) for i in range(11)], speed=2)
    wanted = {"NSE_FO|a"}
    assert [u.broker_ms for u in replay.due(50_000, wanted)] == [T0]
    assert [u.broker_ms for u in replay.due(50_150, wanted)] == [T0 + 100, T0 + 200, T0 + 300]
    assert [u.broker_ms for u in replay.due(50_500, wanted)][-1] == T0 + 1000
    assert replay.finished()
    assert replay.now_ms() == T0 + 1000


def test_due_waits_for_the_rest_of_the_subscription_to_settle() -> None:
    replay = Replay([frame(T0, a=1, b=1), frame(T0 + 100, a=2, b=2)])
    assert replay.due(10_000, {"NSE_FO|a"}) == []
    assert len(replay.due(10_100, {"NSE_FO|a", "NSE_FO|b"})) == 1
    other = Replay([frame(T0, a=1, b=1)])
    assert other.due(10_000, {"NSE_FO|a"}) == []
    assert list(other.due(11_000, {"NSE_FO|a"})[0].feeds) == ["NSE_FO|a"]


def test_due_stands_still_while_nobody_listens() -> None:
    replay = Replay([frame(T0, a=1), frame(T0 + 100, a=2), frame(T0 + 60_000, a=3)])
    assert len(replay.due(1000, {"NSE_FO|a"})) == 1
    assert replay.due(500_000, set()) == []
    assert [u.broker_ms for u in replay.due(600_000, {"NSE_FO|a"})] == [T0 + 100]
    assert replay.due(600_050, {"NSE_FO|a"}) == []


def test_snapshot_holds_only_what_has_gone_out() -> None:
    replay = Replay([frame(T0, a=1), frame(T0 + 100, a=2)], speed=1)
    assert replay.snapshot({"NSE_FO|a"}) == {}
    replay.due(1000, {"NSE_FO|a"})
    assert replay.snapshot({"NSE_FO|a", "NSE_FO|x"})["NSE_FO|a"].fullFeed.marketFF.ltpc.ltp == 1


def test_recorded_initial_feed_goes_out_as_one() -> None:
    replay = Replay([frame(T0, pb.initial_feed, a=1), frame(T0 + 10, a=2)], speed=0)
    assert [isinstance(update, SnapshotUpdate) for update in replay.due(1, {"NSE_FO|a"})] == [True, False]


def test_loop_begins_again_with_recorded_times() -> None:
    replay = Replay([frame(T0, a=1), frame(T0 + 100, a=2)], speed=0, loop=True)
    assert [u.broker_ms for u in replay.due(1, {"NSE_FO|a"})] == [T0, T0 + 100]
    assert [u.broker_ms for u in replay.due(2, {"NSE_FO|a"})] == [T0, T0 + 100]


def test_what_a_recording_does_not_say_is_as_the_calendar_has_it() -> None:
    close = 1_795_428_000_000  # 2026-11-23 15:30 IST
    replay = Replay([frame(close - 1000 + number * 500, a=1) for number in range(4)], speed=0)
    told = []
    while updates := replay.due(1, {"NSE_FO|a"}):
        told.append(([update.broker_ms - close for update in updates], replay.segments()["NSE_EQ"], replay.segments()["NSE_FO"]))
    assert told == [([-1000, -500], "NORMAL_OPEN", "NORMAL_OPEN"), ([0, 500], "CLOSING_END", "NORMAL_OPEN")]
    assert replay.auctions() == {"NSE_EQ": ("CAS_STOP", close)}


def test_what_a_recording_says_counts() -> None:
    info = pb.FeedResponse(type=pb.market_info, currentTs=T0)
    info.marketInfo.segmentStatus["NSE_FO"] = pb.CLOSING_START
    info.marketInfo.casMarketStatus["NSE_EQ"].CopyFrom(pb.StatusInfo(status="CTS_CLOSE", updatedTime=T0 - 5))
    replay = Replay([info.SerializeToString(), frame(T0 + 100, a=1)], speed=0)
    assert (replay.segments()["NSE_FO"], replay.auctions()) == ("NORMAL_OPEN", {})
    replay.due(1, {"NSE_FO|a"})
    assert (replay.segments()["NSE_FO"], replay.segments()["NSE_EQ"]) == ("CLOSING_START", "NORMAL_OPEN")
    assert replay.auctions() == {"NSE_EQ": ("CTS_CLOSE", T0 - 5)}


def test_placeholder_rows_are_distinct_contracts() -> None:
    first = pb.FeedResponse(type=pb.live_feed, currentTs=T0)
    for token, delta in (("1", 0.5), ("2", -0.5), ("3", 0.0)):
        first.feeds[f"NSE_FO|{token}"].fullFeed.marketFF.optionGreeks.delta = delta
    first.feeds["NSE_INDEX|Nifty 50"].fullFeed.indexFF.ltpc.ltp = 25_000
    first.feeds["NSE_EQ|INE118H01025"].fullFeed.marketFF.ltpc.ltp = 2_700
    rows = Replay([first.SerializeToString()]).rows_by_key
    assert [rows[f"NSE_FO|{token}"]["instrument_type"] for token in "123"] == ["CE", "PE", "FUT"]
    assert rows["NSE_INDEX|Nifty 50"]["trading_symbol"] == "NIFTY"
    assert rows["NSE_EQ|INE118H01025"]["isin"] == "INE118H01025"
    identities = {(r.get("underlying_symbol"), r.get("expiry"), r.get("strike_price"), r["instrument_type"]) for r in rows.values()}
    assert len(identities) == len({row["trading_symbol"] for row in rows.values()}) == 5
    assert rows["NSE_FO|1"]["expiry"] % 86_400_000 == 66_599_000  # 23:59:59 IST


# --- through the wire -----------------------------------------------------------------------------------------------------


def test_the_closing_auction_goes_out_in_market_info(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    auction = 1_795_427_100_000  # 2026-11-23 15:15 IST
    frames = [frame(auction - 1000, a=1), frame(auction + 1000, a=2)]
    recording = tmp_path / "frames.bin"
    recording.write_bytes(b"".join(struct.pack(">I", len(content)) + content for content in frames))
    exchange = start_exchange("--replay", str(recording), "--speed", "10")
    with open_feed(exchange) as connection:
        assert not receive(connection).marketInfo.casMarketStatus
        connection.send(request("sub", ["NSE_FO|a"], "full"))
        told = receive_until(connection, lambda got: bool(got) and bool(got[-1].marketInfo.casMarketStatus))
        status = exchange.get("/v2/market/status/NSE").json()["data"]
    assert decode(told[-1].SerializeToString(), {}).auctions == {"NSE_EQ:CAS": ("CTS_CLOSE", auction)}
    assert (told[-1].currentTs, told[-1].marketInfo.segmentStatus["NSE_EQ"]) == (auction + 1000, pb.NORMAL_OPEN)
    assert status["cas_eligible_status"] == {"status": "CTS_CLOSE", "last_updated": auction}


@pytest.mark.realdata
def test_a_client_receives_the_hundred_frames_as_recorded(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    (path,) = real_data(HUNDRED)
    source = [pb.FeedResponse.FromString(f) for f in read_recording([Path(path)])]
    keys = sorted({key for f in source for key in f.feeds})
    exchange = start_exchange("--replay", path, "--speed", "max", ledger=tmp_path / "ledger")
    with open_feed(exchange) as connection:
        info = receive(connection)
        assert info.type == pb.market_info
        assert info.currentTs == source[0].currentTs
        connection.send(request("sub", keys, "full"))
        frames = receive_until(connection, lambda got: sum(f.type == pb.live_feed for f in got) >= 100)
        after = receive_until(connection, lambda got: any(f.type == pb.market_info for f in got))
        state = exchange.state()
    received = [f for f in frames if f.type != pb.market_info]
    assert received == source
    assert not any(f.feeds for f in after)
    assert state["finished"] is True
    assert state["updates_sent_total"] == sum(len(f.feeds) for f in source) == 859
    ledger = exchange.ledger
    written: dict[str, list[tuple[int, str]]] = {}
    for update in ledger.updates():
        written.setdefault(update.key, []).append((update.broker_ms, update.digest))
    assert written == digests(received) == digests(source)
    assert [pb.FeedResponse.FromString(f.content) for f in ledger.frames() if pb.FeedResponse.FromString(f.content).feeds] == source


@pytest.mark.realdata
def test_a_session_start_goes_out_in_its_order(start_exchange: StartExchange) -> None:  # noqa: F811
    (path,) = real_data(SESSION_START)
    source = [pb.FeedResponse.FromString(f) for f in read_recording([Path(path)])]
    exchange = start_exchange("--replay", path, "--speed", "50")
    with open_feed(exchange) as connection:
        connection.send(request("sub", sorted(source[1].feeds), "full"))
        frames = receive_until(connection, lambda got: sum(bool(f.feeds) for f in got) >= 4)
    assert [f.type for f in frames if f.feeds] == [pb.initial_feed, pb.live_feed, pb.live_feed, pb.live_feed]
    assert [f for f in frames if f.feeds] == [f for f in source if f.feeds]
    assert frames[0].marketInfo == source[0].marketInfo


@pytest.mark.long
@pytest.mark.realdata
@pytest.mark.slow
def test_whole_days_arrive_whole_at_full_speed(start_exchange: StartExchange, tmp_path: Path) -> None:  # noqa: F811
    paths = real_data(*DAYS)
    source = read_recording(map(Path, paths))
    expected = digests(source)
    exchange = start_exchange("--replay", *paths, "--speed", "0", ledger=tmp_path / "ledger")
    with open_feed(exchange) as connection:
        connection.send(request("sub", sorted(expected), "full"))
        last = pb.FeedResponse.FromString(source[-1])
        frames = receive_until(connection, lambda got: bool(got) and got[-1].currentTs == last.currentTs and got[-1] == last, seconds=200)
    assert digests([f for f in frames if f.feeds]) == expected
    exchange.state()
    assert exchange.ledger.counts() == {key: len(updates) for key, updates in expected.items()}
