"""Decoding full-mode frames to domain ticks, greeks and bars included, against the official SDK's `MessageToDict`, on the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.json_format import MessageToDict

from broker.pipeline import Pipeline
from broker.receiving import spare_the_collector
from broker.upstox.decode import decode
from marketdata.domain.candle import MINUTE_MS
from marketdata.domain.minutes import MinuteBuilder
from marketdata.domain.tick import EPOCH_2020_US
from marketdata.store import tick_bson
from tests.bench.frames import INSTRUMENTS, START_MS, market
from tests.bench.table import Row

ROUNDS = 10
"""So many updates of each instrument: 7 MB of frames, which stay in the processor's cache as fresh frames do."""
REPEATS = 9


def run() -> list[Row]:
    """Measure by processor time, the best of REPEATS; say what each part of a tick's way costs."""
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    keys, frames = market(ROUNDS)
    minutes: dict[int, bytes] = {}
    pipelines = [Pipeline() for _ in range(REPEATS)]
    decoded = [decode(data, keys, {}) for data in frames]
    stamp = START_MS * 1000 - EPOCH_2020_US
    # the bars of these frames are of the minute that forms: as in life they are to be of the one before
    live = [frame._replace(bars=[bar._replace(start_ms=bar.start_ms - MINUTE_MS) for bar in frame.bars]) for frame in decoded]

    def sdk_way() -> None:
        for data in frames:
            MessageToDict(sdk.FeedResponse.FromString(data))

    def our_way() -> None:
        for data in frames:
            decode(data, keys, minutes)

    def fold() -> None:
        pipeline = pipelines.pop()
        for frame in decoded:
            pipeline.apply(frame)

    def build() -> None:
        builder = MinuteBuilder(lambda instrument, minute_ms: True)
        for number, frame in enumerate(live):
            builder.apply(frame, stamp + 8 * number)
            builder.advance(frame.broker_ms)

    def pack() -> None:
        for frame in decoded:
            for tick in frame.ticks:
                tick_bson(tick, stamp, START_MS, 1)

    spare_the_collector()  # for both, as the feed does
    theirs, ours, folded, built, packed = _microseconds(sdk_way, our_way, fold, build, pack)
    return [
        Row("decode to domain ticks, greeks and bars included", 1e6 / ours, "updates/s"),
        Row("official SDK's way, MessageToDict", 1e6 / theirs, "updates/s"),
        Row("ratio", theirs / ours, "times", at_least=12, aim=25),
        Row("of a tick's way: decode", ours, "µs"),
        Row("of a tick's way: fold into the quote", folded, "µs"),
        Row("of a tick's way: into the candle", built, "µs", at_least=3, lower_is_better=True),
        Row("of a tick's way: pack for MongoDB", packed, "µs"),
    ]


def _microseconds(*works: Callable[[], object]) -> list[float]:
    """Return processor time an update, in µs, of each work that goes through all frames: the best of REPEATS, taken in turn."""
    best = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for number, work in enumerate(works):
            began = time.process_time()
            work()
            best[number] = min(best[number], time.process_time() - began)
    return [seconds / ROUNDS / INSTRUMENTS * 1e6 for seconds in best]
