"""Each alteration as a client would see it, judged by the official SDK's module."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

from broker.simulator.alterations import Alterations, Outgoing
from broker.simulator.faults import Altering, Duplicate, Faults, NewerSchema, Oversized, Partial, Reorder, Truncated, UnknownKeys, Zeroes
from broker.upstox import MarketDataFeedV3_pb2 as pb

FUTURE, INDEX = "NSE_FO|1", "NSE_INDEX|Nifty 50"


def frame(broker_ms: int, *keys: str) -> pb.FeedResponse:
    """A live frame of these keys."""
    made = pb.FeedResponse(type=pb.live_feed, currentTs=broker_ms)
    for key in keys:
        price = pb.LTPC(ltp=100.5, ltt=broker_ms - 200, ltq=75, cp=99.0)
        full = made.feeds[key].fullFeed
        if key == INDEX:
            full.indexFF.ltpc.CopyFrom(price)
            full.indexFF.marketOHLC.ohlc.add(interval="I1", open=1, high=2, low=1, close=2, ts=60_000)
            continue
        full.marketFF.ltpc.CopyFrom(price)
        full.marketFF.marketLevel.bidAskQuote.add(bidQ=75, bidP=100.4, askQ=150, askP=100.6)
        full.marketFF.vtt, full.marketFF.oi, full.marketFF.tbq, full.marketFF.tsq = broker_ms, 5.0, 6.0, 7.0
    return made


def altered(fault: Altering, *frames: pb.FeedResponse) -> tuple[list[Outgoing], Faults]:
    """What is sent instead of these frames, and the counters."""
    faults = Faults()
    faults.begin(fault, 0.0)
    alterations = Alterations(faults)
    return [out for one in frames for out in alterations.outgoing(1, one, 1.0)], faults


def read(outgoing: Outgoing) -> sdk.FeedResponse:
    return sdk.FeedResponse.FromString(outgoing.content)


def test_without_a_fault_a_frame_goes_out_as_it_is() -> None:
    one = frame(1000, FUTURE)
    assert Alterations(Faults()).outgoing(1, one, 0.0) == [Outgoing(one.SerializeToString(), one)]


@pytest.mark.parametrize("keys", [(FUTURE,), (FUTURE, INDEX), tuple(f"NSE_FO|{number}" for number in range(2, 12))])
def test_a_truncated_frame_is_none_and_carries_no_update(keys: tuple[str, ...]) -> None:
    sent, faults = altered(Truncated(every=2), frame(1000, *keys), frame(2000, *keys))
    assert read(sent[0]).currentTs == 1000
    assert frame(2000, *keys).SerializeToString().startswith(sent[1].content)
    assert sent[1].frame is None
    with pytest.raises(DecodeError):
        read(sent[1])
    assert faults.happened == {"truncated": 1}


def test_an_oversized_frame_says_the_same_with_padding() -> None:
    (sent,), faults = altered(Oversized(every=1, size=17 << 20), frame(1000, FUTURE))
    assert len(sent.content) > 17 << 20
    assert read(sent).feeds[FUTURE].fullFeed.marketFF.ltpc.ltp == 100.5
    assert faults.happened == {"oversized": 1}


def test_a_duplicate_is_the_same_bytes_or_the_same_updates_in_a_new_frame() -> None:
    same, faults = altered(Duplicate(every=1), frame(1000, FUTURE))
    assert len(same) == 2
    assert same[0] == same[1]
    assert faults.happened == {"duplicate": 1}
    first, again = altered(Duplicate(every=1, new_frame=True), frame(1000, FUTURE))[0]
    assert (read(first).currentTs, read(again).currentTs) == (1000, 1001)
    assert read(first).feeds[FUTURE] == read(again).feeds[FUTURE]


def test_a_reordered_frame_comes_after_the_next_with_one_of_its_keys() -> None:
    frames = [frame(1000, FUTURE, "NSE_FO|2"), frame(2000, INDEX), frame(3000, "NSE_FO|2"), frame(4000, FUTURE)]
    sent, faults = altered(Reorder(every=1, count=1), *frames)
    assert [read(one).currentTs for one in sent] == [2000, 3000, 1000, 4000]
    assert faults.happened == {"reorder": 1}


def test_a_frame_held_back_goes_out_after_the_fault_and_not_to_another_connection() -> None:
    faults = Faults()
    faults.begin(Reorder(every=1), 0.0)
    alterations = Alterations(faults)
    assert alterations.outgoing(1, frame(1000, FUTURE), 1.0) == []
    assert alterations.outgoing(2, frame(1000, FUTURE), 1.0) == []
    faults.clear()
    alterations.forget(2)
    assert [read(one).currentTs for one in alterations.outgoing(2, frame(2000, FUTURE), 1.0)] == [2000]
    assert [read(one).currentTs for one in alterations.outgoing(1, frame(2000, FUTURE), 1.0)] == [2000, 1000]
    assert faults.happened == {"reorder": 1}


def test_an_unknown_key_is_added() -> None:
    (sent,), faults = altered(UnknownKeys(every=1, key="NSE_FO|999"), frame(1000, FUTURE))
    assert set(read(sent).feeds) == {FUTURE, "NSE_FO|999"}
    assert faults.happened == {"unknown_keys": 1}


def test_a_newer_schema_has_fields_on_every_level_and_reads_as_before() -> None:
    plain = frame(1000, FUTURE, INDEX)
    (sent,), faults = altered(NewerSchema(every=1), frame(1000, FUTURE, INDEX))
    seen = read(sent)
    assert sent.content.count(b"newer") == 1 + 2 * 6  # the frame; per feed itself, full feed, body, price, depth or bars, a row
    seen.DiscardUnknownFields()
    assert seen.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)
    assert faults.happened == {"newer_schema": 1}


def test_a_partial_frame_keeps_one_group() -> None:
    (sent,), _ = altered(Partial(every=1, keep="ltpc"), frame(1000, FUTURE, INDEX))
    assert [field.name for field, _ in read(sent).feeds[FUTURE].fullFeed.marketFF.ListFields()] == ["ltpc"]
    assert [field.name for field, _ in read(sent).feeds[INDEX].fullFeed.indexFF.ListFields()] == ["ltpc"]
    (sent,), faults = altered(Partial(every=1, keep="depth"), frame(1000, FUTURE, INDEX))
    assert [field.name for field, _ in read(sent).feeds[FUTURE].fullFeed.marketFF.ListFields()] == ["marketLevel"]
    assert read(sent).feeds[INDEX].fullFeed.indexFF.HasField("ltpc")
    assert faults.happened == {"partial": 1}


def test_zeroes_vanish_from_the_wire() -> None:
    (sent,), faults = altered(Zeroes(every=1), frame(1000, FUTURE))
    body = read(sent).feeds[FUTURE].fullFeed.marketFF
    assert {field.name for field, _ in body.ListFields()} == {"ltpc", "marketLevel", "vtt"}
    assert [field.name for field, _ in body.marketLevel.bidAskQuote[0].ListFields()] == ["bidQ", "askQ", "askP"]
    assert faults.happened == {"zeroes": 1}


def test_what_has_nothing_to_alter_does_not_count_and_the_next_frame_is_altered() -> None:
    sent, faults = altered(Zeroes(every=2, count=1), frame(1000, FUTURE), frame(2000, INDEX), frame(3000, FUTURE), frame(4000, FUTURE))
    interests = [read(one).feeds[FUTURE].fullFeed.marketFF.oi for one in sent if FUTURE in read(one).feeds]
    assert interests == [5.0, 0.0, 5.0]
    assert faults.happened == {"zeroes": 1}


def test_alterations_add_up() -> None:
    faults = Faults()
    for fault in (NewerSchema(every=1), Duplicate(every=1), UnknownKeys(every=1)):
        faults.begin(fault, 0.0)
    sent = Alterations(faults).outgoing(1, frame(1000, FUTURE), 1.0)
    assert len(sent) == 2
    assert len(read(sent[0]).feeds) == 2
    assert b"newer" in sent[0].content
    assert faults.happened == {"newer_schema": 1, "duplicate": 1, "unknown_keys": 1}
