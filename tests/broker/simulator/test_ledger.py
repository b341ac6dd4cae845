"""The ledger on disk: its format is the one its docstring states, it is continued, and torn records are cut off."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from broker.simulator.ledger import Asked, Ledger, LedgerReader
from broker.upstox import MarketDataFeedV3_pb2 as pb


def frame(**prices: float) -> pb.FeedResponse:
    response = pb.FeedResponse(type=pb.live_feed, currentTs=1_769_160_000_000)
    for name, price in prices.items():
        response.feeds[f"NSE_INDEX|{name} 50"].ltpc.ltp = price
    return response


def record(folder: Path, *frames: pb.FeedResponse) -> None:
    ledger = Ledger(folder)
    for number, response in enumerate(frames):
        ledger.record(1_000 + number, 7, response.SerializeToString(), response)
    ledger.close()


def test_files_are_as_documented(tmp_path: Path) -> None:
    response = frame(b=2.0, a=1.0)
    record(tmp_path, response)
    content = response.SerializeToString()
    assert (tmp_path / "frames.bin").read_bytes() == struct.pack(">QII", 1_000, 7, len(content)) + content
    lines = (tmp_path / "updates.tsv").read_text().splitlines()
    assert [line.split("\t")[:4] for line in lines] == [["0", "7", "1769160000000", f"NSE_INDEX|{name} 50"] for name in "ab"]
    feed = response.feeds["NSE_INDEX|a 50"].SerializeToString(deterministic=True)
    assert lines[0].split("\t")[4] == hashlib.blake2b(feed, digest_size=8).hexdigest()


def test_a_ledger_is_continued(tmp_path: Path) -> None:
    record(tmp_path, frame(a=1))
    record(tmp_path, frame(a=2), frame(a=3, b=1))
    reader = LedgerReader(tmp_path)
    assert [sent.number for sent in reader.frames()] == [0, 1, 2]
    assert [update.frame for update in reader.updates()] == [0, 1, 2, 2]
    assert reader.counts() == {"NSE_INDEX|a 50": 3, "NSE_INDEX|b 50": 1}
    assert Ledger(tmp_path).connections == 7


@pytest.mark.parametrize("torn", range(1, 12))
def test_torn_records_are_cut_off(tmp_path: Path, torn: int) -> None:
    record(tmp_path, frame(a=1), frame(a=2))
    for name in ("frames.bin", "updates.tsv"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-torn])
    assert [sent.number for sent in LedgerReader(tmp_path).frames()] == [0]
    assert [update.frame for update in LedgerReader(tmp_path).updates()] == [0]
    record(tmp_path, frame(a=5))
    frames = [pb.FeedResponse.FromString(sent.content) for sent in LedgerReader(tmp_path).frames()]
    assert frames == [frame(a=1), frame(a=5)]
    assert [update.frame for update in LedgerReader(tmp_path).updates()] == [0, 1]


def test_market_info_is_a_message_without_updates(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record(1, 1, b"\x08\x02")
    ledger.flush()
    assert [sent.content for sent in LedgerReader(tmp_path).frames()] == [b"\x08\x02"]
    assert list(LedgerReader(tmp_path).updates()) == []
    ledger.close()


def test_requests_are_lines_of_json_and_a_torn_one_is_cut_off(tmp_path: Path) -> None:
    asked = [
        Asked(1, 10, 3, "open"),
        Asked(2, 20, 3, "sub", "full", ["NSE_INDEX|a 50", "NSE_FO|9"], ["NSE_FO|9"], {"full": 1}),
    ]
    ledger = Ledger(tmp_path)
    for each in asked:
        ledger.ask(each)
    ledger.close()
    path = tmp_path / "requests.jsonl"
    assert json.loads(path.read_text().splitlines()[1]) == {
        "at_ns": 2,
        "market_ms": 20,
        "connection": 3,
        "method": "sub",
        "mode": "full",
        "keys": ["NSE_INDEX|a 50", "NSE_FO|9"],
        "refused": ["NSE_FO|9"],
        "modes": {"full": 1},
    }
    path.write_bytes(path.read_bytes() + b'{"at_ns":3,"mark')
    assert list(LedgerReader(tmp_path).requests()) == asked
    Ledger(tmp_path).close()
    assert path.read_bytes().endswith(b"}\n")
