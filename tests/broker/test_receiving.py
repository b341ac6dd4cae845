"""Receiving: the journal has a frame before anything else, bad ones are counted, and the counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.candles import ShardCandles
from broker.following import Following
from broker.hours import TradingHours
from broker.journal import Journal
from broker.journal_reading import JournalReader
from broker.liveness import Liveness
from broker.pipeline import Pipeline
from broker.receiving import Receiver
from broker.report import COUNTS
from broker.store_writer import StoreWriter
from broker.upstox import MarketDataFeedV3_pb2 as pb
from instruments.domain.limits import Limits
from tests.payloads import frame, option_feed

IDS = {"NSE_FO|1": 1, "NSE_FO|2": 2}


def info(**segments: int) -> bytes:
    """A market_info frame."""
    response = pb.FeedResponse(type=pb.market_info, currentTs=1_769_160_569_400)
    for segment, status in segments.items():
        response.marketInfo.segmentStatus[segment] = status  # type: ignore[assignment]  # an enum's value
    return response.SerializeToString()


class Bench:
    """A receiver with everything real around it but a socket; the store's thread does not run, so what is offered waits."""

    def __init__(self, folder: Path) -> None:
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self.journal = Journal(folder, shard=0, segment_bytes=1 << 24)
        self.journal.open()
        self.pipeline = Pipeline()
        self.liveness = Liveness()
        self.following = Following(self.journal, self.pipeline, shard=0, shards=1, limits=Limits({"full": 10}, {"full": 10}))
        self.following.learn(IDS)
        self.writer = StoreWriter(
            folder, shard=0, journal_last_us=0, name_unknown=lambda keys: {}, batch_ticks=100, batch_ms=100, queue_ticks=1000
        )
        self.candles = ShardCandles(TradingHours(), grace_ms=1500)
        self.ticked = 0
        self.receiver = Receiver(
            journal=self.journal, following=self.following, pipeline=self.pipeline, candles=self.candles,
            liveness=self.liveness, writer=self.writer, counts=self.counts, on_ticks=self._tick,
        )  # fmt: skip
        self.receiver.opened()

    def _tick(self) -> None:
        self.ticked += 1

    def journalled(self) -> list[bytes]:
        self.journal.flush()
        return [record.data for record in JournalReader(self.journal.folder).read()]

    def assert_adds_up(self) -> None:
        """Contract: frames by what became of them on disk and in decoding; ticks by what the pipeline made of them."""
        frames, journal, ticks = self.counts["frames_received_total"], self.journal.counts, self.pipeline.counts
        assert frames == journal["frames_journalled_total"] + journal["frames_unjournalled_total"] + self.journal.frames_waiting
        assert frames == self.counts["frames_decoded_total"] + self.counts["frames_rejected_total"]
        names = ("ticks_changed_total", "repeated_total", "out_of_order_total", "ticks_unknown_total")
        assert self.counts["ticks_decoded_total"] == sum(ticks[name] for name in names)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal")
    yield made
    made.assert_adds_up()
    made.journal.close()
    made.assert_adds_up()


def test_every_binary_frame_is_journalled_as_it_came_whatever_it_is(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    whole = frame({"NSE_FO|1": option_feed(), "NSE_FO|2": option_feed()})
    sent = [
        info(NSE_FO=pb.NORMAL_OPEN),
        whole,
        b"\xff\xff garbage",
        whole[: len(whole) // 2],
        b"",
        whole,
        frame({"NSE_FO|9": option_feed()}),
    ]
    for message in sent:
        bench.receiver.take(message)
    assert bench.journalled() == sent
    assert bench.counts["frames_received_total"] == len(sent)
    assert bench.counts["frames_rejected_total"] == 2
    assert caplog.text.count("frame rejected") == 1, "no line a frame"
    assert bench.counts["ticks_decoded_total"] == 5
    assert bench.ticked == 2
    assert bench.writer.queued_ticks == 5


def test_a_frame_that_breaks_the_decoder_itself_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(data: bytes, instruments: object) -> None:
        raise IndexError("a mistake of ours")

    monkeypatch.setattr("broker.receiving.decode", mistaken)
    bench.receiver.take(frame({"NSE_FO|1": option_feed()}))
    assert bench.counts["frames_rejected_total"] == 1


def test_text_frames_are_kept_beside_the_frames_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.receiver.take('{"status":"failed","method":"sub","error":{"code":"UDAPI1","message":"no"}}')
    bench.receiver.take("x" * 100_000)
    assert bench.counts["text_frames_total"] == 2
    assert bench.counts["frames_received_total"] == 0
    assert "the feed refused sub" in caplog.text
    assert bench.journalled() == []
    assert 0 < bench.journal.bytes_written < 20_000


def test_a_key_that_nobody_asked_for_is_offered_to_the_store_and_has_no_quote(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        bench.receiver.take(frame({"NSE_FO|1": option_feed(), "NSE_FO|7": option_feed(), "NSE_FO|8": option_feed()}))
    assert bench.writer.queued_ticks == 9
    assert set(bench.pipeline.quotes) == {1}
    assert bench.pipeline.counts["ticks_unknown_total"] == 6
    assert caplog.text.count("nobody asked for") == 1, "no line a frame"
    assert "NSE_FO|7, NSE_FO|8" in caplog.text


def test_what_was_folded_is_in_the_candles_too(bench: Bench) -> None:
    bench.receiver.take(frame({"NSE_FO|1": option_feed(), "NSE_FO|2": option_feed()}))
    bench.candles.due = True
    assert [(candle.instrument, candle.state, candle.close) for candle in bench.candles.drain()] == [
        (1, "confirmed", 101), (2, "confirmed", 101), (1, "live", 101.5), (2, "live", 101.5),
    ]  # fmt: skip


def test_the_clocks_tell_frames_ticks_and_live_ticks_apart(bench: Bench) -> None:
    clocks = bench.liveness
    opened = clocks.frame_at
    bench.receiver.take(info(NSE_FO=pb.NORMAL_OPEN))
    assert clocks.frame_at > opened
    assert clocks.data_at == float("-inf")
    bench.receiver.take(frame({"NSE_FO|1": option_feed()}, kind=pb.initial_feed))
    assert clocks.data_at == clocks.frame_at
    assert not clocks.gave_data, "a snapshot comes at night too"
    bench.receiver.take(frame({"NSE_FO|1": option_feed()}))
    assert clocks.gave_data


def test_the_greeting_replaces_the_segments_and_later_reports_are_added(bench: Bench) -> None:
    bench.receiver.take(info(NSE_FO=pb.NORMAL_OPEN, MCX_FO=pb.NORMAL_OPEN))
    bench.receiver.take(info(NSE_FO=pb.CLOSING_START))
    assert bench.pipeline.segments == {"NSE_FO": "CLOSING_START", "MCX_FO": "NORMAL_OPEN"}
    bench.receiver.closed()
    bench.receiver.opened()
    assert bench.pipeline.segments != {}, "until the greeting, what was known goes on"
    bench.receiver.take(info(NSE_FO=pb.NORMAL_CLOSE))
    assert bench.pipeline.segments == {"NSE_FO": "NORMAL_CLOSE"}
