"""The broker's instrument master: bytes in, rows out."""

from __future__ import annotations

import collections
import gzip
import json
import random
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.upstox import master
from broker.upstox.master import MasterRejected, parse_master, unpack_master
from instruments.domain.instrument import InstrumentRow, day_end, fingerprint_of, identity_of, ms_of
from tests.instruments.rows import REAL_MASTER, broker_json, market, needs_real_master

OPTION: dict[str, Any] = {  # as in the file of July 2026
    "weekly": False, "segment": "NSE_FO", "name": "MIDCPNIFTY", "exchange": "NSE", "expiry": 1793125799000, "instrument_type": "PE",
    "asset_symbol": "MIDCPNIFTY", "underlying_symbol": "MIDCPNIFTY", "instrument_key": "NSE_FO|50917", "lot_size": 120,
    "freeze_quantity": 2760.0, "exchange_token": "50917", "minimum_lot": 120, "asset_key": "NSE_INDEX|NIFTY MID SELECT",
    "underlying_key": "NSE_INDEX|NIFTY MID SELECT", "tick_size": 5.0, "asset_type": "INDEX", "underlying_type": "INDEX",
    "trading_symbol": "MIDCPNIFTY 15225 PE 27 OCT 26", "strike_price": 15225.0, "qty_multiplier": 1.0,
}  # fmt: skip
INDEX = {
    "segment": "NSE_INDEX", "name": "Nifty 50", "exchange": "NSE", "instrument_type": "INDEX", "instrument_key": "NSE_INDEX|Nifty 50",
    "exchange_token": "26000", "trading_symbol": "NIFTY",
}  # fmt: skip
EQUITY = {"segment": "NSE_EQ", "exchange": "NSE", "instrument_type": "EQ", "instrument_key": "NSE_EQ|Y", "trading_symbol": "Y"}


def parsed(*rows: object) -> list[InstrumentRow]:
    return parse_master(json.dumps(rows).encode())


def test_an_option_in_rupees_and_our_own_words() -> None:
    assert parsed(OPTION) == [
        InstrumentRow(
            "NSE_FO|50917", "NSE_FO", "NSE", "PE", "MIDCPNIFTY 15225 PE 27 OCT 26", "MIDCPNIFTY", "NSE_INDEX|NIFTY MID SELECT",
            "MIDCPNIFTY", ms_of(day_end(date(2026, 10, 27))), False, 15225.0, 120, 0.05, 2760.0, "50917", None,
        )
    ]  # fmt: skip


def test_who_takes_part_in_the_closing_auction_is_as_the_file_says() -> None:
    index, share, other = parsed({**INDEX, "cas_eligible": False}, EQUITY, {**EQUITY, "instrument_key": "NSE_EQ|X", "cas_eligible": True})
    assert [row.cas_eligible for row in (index, share, other)] == [False, False, True]


def test_an_index_has_what_the_file_gives_it() -> None:
    (row,) = parsed(INDEX)
    assert (row.trading_symbol, row.lot_size, row.tick_size, row.expiry_ms, row.weekly) == ("NIFTY", None, None, None, None)


def test_a_future_has_no_strike_and_currency_ticks_are_small() -> None:
    (row,) = parsed({**OPTION, "instrument_type": "FUT", "strike_price": 0.0, "tick_size": 0.25})
    assert (row.strike_price, row.tick_size) == (None, 0.0025)


def test_fields_may_be_missing_null_or_of_a_near_type() -> None:
    (row,) = parsed({**OPTION, "exchange_token": 50917, "lot_size": 120.0, "tick_size": 5, "freeze_quantity": None, "new_field": [1]})
    assert (row.exchange_token, row.lot_size, row.tick_size, row.freeze_quantity) == ("50917", 120, 0.05, None)


def test_rows_written_as_the_broker_writes_them_come_back() -> None:
    assert parse_master(broker_json(market())) == market()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"[]", "an empty list"),
        (b"<!DOCTYPE html><html><body>Access denied</body></html>", "a web page.*Access denied"),
        (b'{"status":"error","errors":[{"errorCode":"UDAPI100012"}]}', "error envelope.*UDAPI100012"),
        (b"[1, 2, 3]", r"a JSON list that is not a master.*\$\[0\]"),
        (b'[{"date": "2026-01-01"}]', r"not a master.*missing required field.*\$\[0\]"),
        (json.dumps([OPTION]).encode()[:-20], "not a master"),
        (json.dumps([{**OPTION, "lot_size": "many"}]).encode(), "lot_size"),
        (json.dumps([{**OPTION, "instrument_key": "50917"}]).encode(), "has the key '50917'"),
        (json.dumps([{**OPTION, "segment": "NSE_EQ"}]).encode(), "in segment 'NSE_EQ'"),
        (json.dumps([OPTION, INDEX, OPTION]).encode(), r"row 2 .* repeats the key 'NSE_FO\|50917'"),
        (json.dumps([{**OPTION, "expiry": 10**18}]).encode(), "no time in milliseconds"),
        (b"\xff\xfe\x00binary", "something else"),
        (b'"instruments"', "something else"),
    ],
)
def test_whatever_is_no_master_is_rejected_by_name(text: bytes, what: str) -> None:
    with pytest.raises(MasterRejected, match=f"(?s){what}"):
        parse_master(text)


TEXT = broker_json(market())
PACKED = gzip.compress(TEXT, 6)


@pytest.mark.parametrize("size", [1, 2, 3, 1000, len(PACKED)])
def test_unpack_takes_pieces_of_any_size(size: int) -> None:
    assert unpack_master(PACKED[start : start + size] for start in range(0, len(PACKED), size)) == TEXT


@given(st.integers(0, len(PACKED) - 1))
def test_a_file_cut_anywhere_is_rejected(length: int) -> None:
    with pytest.raises(MasterRejected, match=r"cut off|empty"):
        unpack_master([PACKED[:length]])


@given(st.integers(10, len(PACKED) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_gives_other_rows(position: int, mask: int) -> None:
    damaged = bytearray(PACKED)
    damaged[position] ^= mask
    try:
        text = unpack_master([bytes(damaged)])
    except MasterRejected:
        return
    assert text == TEXT  # some bits of the header (time, system) carry nothing


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\x1f", "is empty|cut off"),
        (b"<html>maintenance</html>", "not gzip but a web page.*maintenance"),
        (b'{"status":"error"}', "not gzip but a JSON object"),
        (TEXT, "not gzip but a JSON list"),
        (b"PK\x03\x04zip", "not gzip but something else"),
        (b"\x1f\x8bgarbage that is no stream", "damaged"),
    ],
)
def test_whatever_is_no_gzip_is_rejected_by_name(content: bytes, what: str) -> None:
    with pytest.raises(MasterRejected, match=f"(?s){what}"):
        unpack_master([content])


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "MASTER_BYTES_MAX", 100_000)
    with pytest.raises(MasterRejected, match="larger than 100000 bytes"):
        unpack_master([gzip.compress(b" " * 50_000_000)])


@pytest.mark.realdata
@needs_real_master
def test_every_row_of_the_real_master_is_read_and_has_an_identity_of_its_own() -> None:
    rows = parse_master(unpack_master([REAL_MASTER.read_bytes()]))
    segments = collections.Counter(row.segment for row in rows)
    assert segments == {"NSE_FO": 34539, "NSE_EQ": 9396, "NSE_INDEX": 139, "NSE_COM": 31376, "NCD_FO": 9096}
    assert len({identity_of(row) for row in rows}) == len({fingerprint_of(row) for row in rows}) == 84546
    by_key = {row.instrument_key: row for row in rows}
    assert by_key["NSE_INDEX|Nifty 50"].trading_symbol == "NIFTY"
    assert {row.tick_size for row in rows if row.underlying_symbol == "BANKNIFTY" and row.instrument_type == "FUT"} == {0.2}
    sample = random.Random(1).sample([row for row in rows if row.expiry_ms], 1000)
    assert all(row.expiry_ms and row.expiry_ms % 86_400_000 == 66_599_000 for row in sample)
