"""Recordings in each form are read whole and in order; files that are none are refused by name."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from google.protobuf import json_format

from broker.simulator.captures import CaptureError, build, read_recording
from broker.upstox import MarketDataFeedV3_pb2 as pb
from tests.broker.simulator.test_replay import DAYS, HUNDRED, HUNDRED_JSON, T0
from tests.fakes.exchange import real_data


def test_build_makes_what_protobuf_s_own_parser_makes() -> None:
    market = {
        "ltpc": {"ltp": 1.5, "ltt": "1769160583490", "iep": 0.0},
        "marketLevel": {"bidAskQuote": [{"bidQ": "65"}, {}]},
        "marketOHLC": {"ohlc": [{}, {"interval": "I1", "ts": "1"}]},
        "ieq": "7",
        "casEligible": True,
    }
    row = {
        "type": "live_feed",
        "currentTs": "1769160583490",
        "unknown": {"left": "out"},
        "feeds": {"NSE_EQ|X": {"fullFeed": {"marketFF": market}, "requestMode": "full_d5"}},
        "marketInfo": {"segmentStatus": {"NSE_EQ": "PRE_OPEN_START"}, "preOpenSessionStatus": {"NSE": {"status": "S", "updatedTime": "9"}}},
    }
    assert build(pb.FeedResponse, row) == json_format.ParseDict(row, pb.FeedResponse(), ignore_unknown_fields=True)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"<html>blocked</html>", b'[{"a": 1}, 2]', b"\x00\x00\x00\x05abc", b"\x1f\x8b\x08broken", b"{"]
)
def test_a_file_that_is_no_recording_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.bin"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=r"wrong\.bin|no frame"):
        read_recording([path])


def test_single_feeds_are_cut_into_frames_in_time_order(tmp_path: Path) -> None:
    def row(key: str, ltt: int, price: float) -> dict[str, object]:
        return {"fullFeed": {"marketFF": {"ltpc": {"ltp": price, "ltt": str(ltt)}}}, "instrumentKey": key, "_insertion_time": "x"}

    one = [row("NSE_FO|1", T0, 1), row("NSE_FO|1", T0 + 10, 2), row("NSE_FO|1", T0 - 500, 3), row("NSE_FO|1", T0 + 400, 4)]
    two = [row("NSE_FO|2", T0 + 5, 9)]
    for name, rows in (("one", one), ("two", two)):
        (tmp_path / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    frames = [pb.FeedResponse.FromString(f) for f in read_recording([tmp_path / "one.json.gz", tmp_path / "two.json.gz"])]
    prices = [(f.currentTs - T0, {k[-1]: v.fullFeed.marketFF.ltpc.ltp for k, v in f.feeds.items()}) for f in frames]
    # the third update of key 1 steps back in ltt: it keeps its place, at the running maximum
    assert prices == [(5, {"1": 1, "2": 9}), (10, {"1": 2}), (10, {"1": 3}), (400, {"1": 4})]


@pytest.mark.realdata
def test_both_forms_of_the_hundred_frames_are_the_same_recording() -> None:
    binary, exported = (read_recording([Path(path)]) for path in real_data(HUNDRED, HUNDRED_JSON))
    assert len(binary) == 100
    assert [pb.FeedResponse.FromString(f) for f in binary] == [pb.FeedResponse.FromString(f) for f in exported]


@pytest.mark.long
@pytest.mark.realdata
@pytest.mark.slow
def test_whole_day_captures_lose_no_update() -> None:
    paths = real_data(*DAYS)
    recorded = Counter(str(row["instrumentKey"]) for path in paths for row in json.loads(gzip.decompress(Path(path).read_bytes())))
    frames = [pb.FeedResponse.FromString(f) for f in read_recording(map(Path, paths))]
    assert Counter(key for f in frames for key in f.feeds) == recorded
    assert sum(recorded.values()) > 60_000
    assert all(a.currentTs <= b.currentTs for a, b in itertools.pairwise(frames))
