"""Client bytes: entries, frames, pushes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from marketdata import wire
from marketdata.commands import CANDLES_MAX
from marketdata.domain.candle import Candle
from marketdata.domain.gap import GapNotice
from marketdata.domain.quote import FIELDS, Quote
from marketdata.domain.tick import NO_DEPTH, Level
from tests.marketdata.way_out import Levels

numbers = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
keys = st.text(min_size=1, max_size=30)


def quote(values: list[Any], *levels: Level, instrument: int = 5) -> Quote:
    made = Quote(instrument)
    made.seq, made.broker_ms, made.values = 3, 1_790_000_000_123, tuple(values)
    made.depth = Levels(*levels) if levels else NO_DEPTH
    return made


def all_fields(made: Quote) -> dict[str, Any]:
    return dict(zip(FIELDS, made.values, strict=True)) | {"broker_ms": made.broker_ms}


@given(st.lists(numbers, min_size=len(FIELDS), max_size=len(FIELDS)), keys)
def test_an_entry_holds_every_field_in_each_mode(values: list[Any], key: str) -> None:
    made = quote(values, Level(1.5, 75, None, None))
    entry = wire.quote_entry(made, key, True)
    expected = all_fields(made)
    full = json.loads(wire.quote_json(entry, wire.FULL))
    assert full == expected
    assert json.loads(wire.quote_json(entry, wire.LTPC)) == {name: expected[name] for name in (*wire.HEAD_FIELDS, "broker_ms")}
    assert json.loads(wire.quote_json(entry, wire.FULL_DEPTH)) == {**full, "depth": [[1.5, 75, None, None]]}
    assert json.loads(wire.tick_fragment(entry, wire.FULL)) == [key, 3, full]


def test_values_that_json_has_no_word_for_are_null() -> None:
    entry = wire.quote_entry(quote([float("nan")] * len(FIELDS)), "K", False)
    assert set(json.loads(wire.quote_json(entry, wire.FULL)).values()) == {None, 1_790_000_000_123}


def test_an_entry_without_levels_says_nothing_of_depth() -> None:
    entry = wire.quote_entry(quote([None] * len(FIELDS)), "K", True)
    assert entry.depth == b""
    assert "depth" not in json.loads(wire.quote_json(entry, wire.FULL_DEPTH))


def test_unchanged_levels_are_taken_from_the_entry_before_and_the_entry_stays_whole() -> None:
    first = wire.quote_entry(quote([1] * len(FIELDS), Level(1.0, 2, 3.0, 4)), "K", True)
    second = wire.quote_entry(quote([2] * len(FIELDS), Level(9.0, 9, 9.0, 9)), "K", False, first)
    alone = wire.quote_entry(quote([2] * len(FIELDS), Level(9.0, 9, 9.0, 9)), "K", False)
    assert second.depth == first.depth == b',"depth":[[1.0,2,3.0,4]]'
    assert alone.depth == b',"depth":[[9.0,9,9.0,9]]'
    assert not second.depth_changed


def test_latest_json_has_an_age_that_is_never_negative() -> None:
    entry = wire.quote_entry(quote([1] * len(FIELDS), Level(1.0, 2, 3.0, 4)), 'K"1', True)
    item = json.loads(wire.latest_json(entry, "full", entry.broker_ms + 250))
    assert (item["key"], item["instrument"], item["seq"], item["age_ms"]) == ('K"1', 5, 3, 250)
    assert item["quote"]["depth"] == [[1.0, 2, 3.0, 4]]
    ltpc = json.loads(wire.latest_json(entry, "ltpc", entry.broker_ms - 250))
    assert ltpc["age_ms"] == 0
    assert "volume" not in ltpc["quote"]


@given(st.lists(st.integers(1, 30_000), max_size=60), st.integers(1, 10**6))
def test_long_lists_come_in_pieces_that_lose_and_reorder_nothing(sizes: list[int], n: int) -> None:
    fragments = [b'["%d","%b"]' % (number, b"x" * size) for number, size in enumerate(sizes)]
    frames = wire.tick_frames(n, fragments)
    messages = [json.loads(frame) for frame in frames]
    assert [tick for message in messages for tick in message["ticks"]] == [json.loads(fragment) for fragment in fragments]
    assert [message["n"] for message in messages] == list(range(n, n + len(messages)))
    longest = max(map(len, fragments), default=0)
    assert all(len(frame) < wire.FRAME_BYTES + longest + 100 for frame in frames)
    assert all(message["ticks"] for message in messages)


@given(keys, st.binary(), st.integers(0, 2**62), st.booleans())
def test_a_packed_entry_is_the_same_when_unpacked(key: str, part: bytes, number: int, changed: bool) -> None:
    entry = wire.QuoteEntry(number, key, number, number, part, part, part, changed)
    assert wire.entry_unpack(wire.entry_pack(entry, 7)) == (7, entry)


def test_mongodbs_own_integers_are_packed_as_integers() -> None:
    entry = wire.QuoteEntry(Int64(5), "K", 1, 2, b"", b"", b"", True)
    assert type(wire.entry_unpack(wire.entry_pack(entry))[1].instrument) is int


@pytest.mark.parametrize("packed", [b"", b"\xff" * 20, b"\x93\x01\x02\x03"])
def test_foreign_bytes_are_no_entry(packed: bytes) -> None:
    with pytest.raises(ValueError, match="not a packed quote entry"):
        wire.entry_unpack(packed)


def test_a_candle_is_told_alone_or_among_others() -> None:
    candle = Candle(5, "5m", 1_789_972_200_000, 100.0, 101.5, 99.95, 100.05, Int64(75), 12.0, "closed", 2, ticks=8)
    fragment = wire.candle_fragment(candle)
    said = {"candle": [1_789_972_200_000, 100.0, 101.5, 99.95, 100.05, 75, 12.0], "state": "closed", "revision": 2}
    head = {"event": "market:ohlc", "key": 'K"1', "interval": "5m"}
    assert json.loads(wire.ohlc_push('K"1', "5m", 7, fragment)) == {**head, "seq": 7, **said}
    whole = json.loads(wire.ohlc_snapshot_push('K"1', "5m", 9, [fragment, fragment]))
    assert whole == {**head, "seq": 9, "snapshot": True, "candles": [said, said]}
    assert json.loads(wire.ohlc_snapshot_push("K", "5m", 0, []))["candles"] == []


def test_the_longest_snapshot_is_one_frame() -> None:
    candle = Candle(5, "5m", 1_789_972_200_000, 123456.05, 123456.05, 123456.05, 123456.05, 10**9, 123456789.0, "backfilled", 10)
    assert len(wire.ohlc_snapshot_push("K", "5m", 10**6, [wire.candle_fragment(candle)] * CANDLES_MAX)) < 80_000


def test_a_gap_is_told_with_what_it_concerns() -> None:
    gap = GapNotice("a1", 0, 1000, 2000, "stale", "impossible", "Why.", [1, 2], 3)
    told = json.loads(wire.gap_push(gap, ["A"]))
    assert told == {
        "event": "gap", "gap": "a1", "from": 1000, "to": 2000, "cause": "stale", "heal_state": "impossible", "heal_detail": "Why.",
        "candles_healed": 3, "keys": ["A"],
    }  # fmt: skip
    assert json.loads(wire.gap_push(gap, None))["keys"] is None
