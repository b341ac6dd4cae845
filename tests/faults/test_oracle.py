"""The oracle itself: a run that is whole passes, and each single spoiled thing is caught and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from django.conf import settings
from mcap.writer import Writer
from pymongo.database import Database

from broker.simulator.ledger import Ledger
from broker.upstox.decode import decode
from marketdata.domain.candle import candle_id
from marketdata.store import tick_bson
from tests.faults.oracle import Proof, assert_lossless
from tests.payloads import frame, option_feed
from tests.payloads.figures import EPOCH_2020_NS

KEYS = {"NSE_FO|1": 1, "NSE_FO|2": 2}
STAMP = 217_000_000_000_000
MINUTE_MS = 1_769_160_480_000
FRAMES = [frame({key: option_feed(last_price=100 + number) for key in KEYS}, broker_ms=MINUTE_MS + 1000 * number) for number in range(20)]
FIRST_CONNECTION = 12
"""So many frames were sent on the first connection, the rest on the second."""
MS = 1_000_000


class Run:
    """What a run left: a ledger, a journal, a store; whole until it is spoiled."""

    def __init__(self, folder: Path, database: Database[dict[str, Any]]) -> None:
        self.ledger, self.journal, self.database = folder / "ledger", folder / "journal", database
        self.ticks = database["marketdata_markettick"]
        self.journal.mkdir()
        ledger = Ledger(self.ledger)
        for number, content in enumerate(FRAMES):
            ledger.record(number * 100 * MS, 1 + (number >= FIRST_CONNECTION), content)
        ledger.close()
        self.write_journal(range(len(FRAMES)))
        database["instruments_instrument"].insert_many({"_id": id, "instrument_key": key, "active": True} for key, id in KEYS.items())
        for number, content in enumerate(FRAMES):
            self.store(number, content)

    def write_journal(self, numbers: Sequence[int]) -> None:
        """Write a journal of these frames, in this order."""
        with (self.journal / "1.mcap").open("wb") as stream:
            writer = Writer(stream)
            writer.start()
            schema = writer.register_schema("frame", "protobuf", b"")
            channel = writer.register_channel("frames", "protobuf", schema)
            for place, number in enumerate(numbers):
                time_ns = (STAMP + 8 * place) * 1000 + EPOCH_2020_NS
                writer.add_message(channel, time_ns, FRAMES[number], time_ns)
            writer.finish()

    def store(self, number: int, content: bytes) -> None:
        """Store a frame as the feed does: its ticks, and its bars once."""
        found = decode(content, KEYS)
        assert found.kind is not None
        rows = [tick_bson(tick, STAMP + 8 * number, found.broker_ms, int(found.kind)) for tick in found.ticks]
        self.ticks.insert_many([RawBSONDocument(row) for row in rows])
        for bar in found.bars:
            identifier = candle_id(bar.instrument, bar.interval, bar.start_ms)
            row = {"i": bar.instrument, "n": bar.interval, "t": DatetimeMS(bar.start_ms), "s": bar.state, "v": bar.volume}
            row |= {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close}
            self.database["marketdata_ohlc"].replace_one({"_id": identifier}, row, upsert=True)

    def cut_to(self, numbers: Sequence[int]) -> None:
        """Journal and store these frames only."""
        self.write_journal(numbers)
        self.ticks.delete_many({})
        for place, number in enumerate(numbers):
            self.store(place, FRAMES[number])

    def judge(self, lost_ms: float = 0, still_open: int | None = None) -> Proof:
        return assert_lossless(self.database, [self.journal], self.ledger, lost_ms=lost_ms, still_open=still_open)

    def first_tick(self) -> dict[str, Any]:
        row = self.ticks.find_one(sort=[("_id", 1)])
        assert row is not None
        return row


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    name = f"{settings.NAMESPACE}_oracle"
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        yield Run(tmp_path, client[name])
        client.drop_database(name)


def test_a_whole_run_is_counted(run: Run) -> None:
    proof = run.judge()
    assert (proof.sent, proof.journalled, proof.lost, proof.stored, proof.candles) == (20, 20, 0, 40, 2)
    assert proof.last["NSE_FO|1"]["p"] == 119


def test_the_end_of_a_connection_may_be_missing_and_is_counted(run: Run) -> None:
    run.cut_to([*range(10), *range(12, 20)])
    proof = run.judge(lost_ms=100, still_open=2)
    assert (proof.lost, proof.lost_ms, proof.lost_since) == (2, 100, {1: 1000 * MS})
    with pytest.raises(AssertionError, match="2 frames at the end of connection 1 are lost, 100 ms"):
        run.judge(lost_ms=99)


def test_of_a_connection_that_is_still_open_not_even_the_last_frame_may_be_missing(run: Run) -> None:
    assert run.judge(still_open=2).lost == 0
    run.cut_to(range(19))
    assert run.judge(still_open=None).lost == 1
    with pytest.raises(AssertionError, match="1 frames at the end of connection 2 are lost, and it is still open"):
        run.judge(lost_ms=1e9, still_open=2)


SPOILED: dict[str, tuple[Callable[[Run], Any], str]] = {
    "a frame is missing in the middle": (lambda run: run.write_journal([0, 1, 3, 4]), "1 frames are lost inside connection 1"),
    "a frame is journalled twice": (lambda run: run.write_journal([0, 1, 1, 2]), "frame 1 of connection 1 is in the journal twice"),
    "frames change places": (lambda run: run.write_journal([1, 0, 2]), "1 frames are lost inside connection 1"),
    "a frame was never sent": (lambda run: (run.ledger / "frames.bin").write_bytes(b""), "was never sent"),
    "a tick is deleted": (lambda run: run.ticks.delete_one({"_id": run.first_tick()["_id"]}), "1 of 40 ticks are not stored"),
    "a tick is doubled": (lambda run: run.ticks.insert_one(run.first_tick() | {"_id": 1}), "1 stored ticks come from no journalled frame"),
    "a price is altered": (lambda run: run.ticks.update_one({}, {"$inc": {"p": 0.05}}), "stored other than it was sent"),
    "a time is altered": (lambda run: run.ticks.update_one({}, {"$set": {"t": DatetimeMS(1)}}), "stored other than it was sent"),
    "a figure is taken away": (lambda run: run.ticks.update_one({}, {"$unset": {"oi": 1}}), "stored other than it was sent"),
    "a tick has another's name": (lambda run: run.ticks.update_one({"i": 1}, {"$set": {"i": 2}}), "stored other than it was sent"),
    "a candle is missing": (lambda run: run.database["marketdata_ohlc"].delete_one({}), "candles that are not the broker's bars"),
    "a candle is altered": (lambda run: run.database["marketdata_ohlc"].update_one({}, {"$inc": {"v": 1}}), "1 candles are not as"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_spoiled_is_caught_and_named(run: Run, what: str) -> None:
    spoil, complaint = SPOILED[what]
    spoil(run)
    with pytest.raises(AssertionError, match=complaint):
        run.judge(lost_ms=1e9)
