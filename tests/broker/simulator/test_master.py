from __future__ import annotations

import gzip
import json
import os
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from broker.simulator import master

SHARED = Path(os.environ.get("TRADINGOK_SHARED", Path(__file__).parents[4] / "shared" / "upstox" / "data"))
DAY = date(2026, 11, 22)
LEVELS = {index.key: index.level for index in master.INDICES}


def rows(day: date = DAY, instruments: int | None = None) -> list[master.Row]:
    return master.build(day, LEVELS.__getitem__, instruments)


def shape(row: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((name, type(value).__name__) for name, value in row.items())


def kind(row: dict[str, Any]) -> tuple[str, str]:
    return row["segment"], row["instrument_type"]


def real_rows() -> list[dict[str, Any]]:
    path = SHARED / "NSE_2026-07.json.gz"
    if not path.exists():
        pytest.skip(f"needs the broker's instrument master of the captured data: {path}")
    with gzip.open(path) as file:
        found: list[dict[str, Any]] = json.load(file)
    return found


@pytest.mark.realdata
def test_rows_have_the_fields_and_types_of_the_brokers() -> None:
    real = defaultdict(set)
    for row in real_rows():
        real[kind(row)].add(shape(row))
    for row in rows():
        # Shares carry `cas_eligible` since August 2026, after the recorded master.
        named = shape({name: value for name, value in row.items() if name != "cas_eligible"})
        assert named in real[kind(row)], row


@pytest.mark.realdata
def test_indices_and_shares_are_those_of_the_broker() -> None:
    real = {row["instrument_key"]: row for row in real_rows()}
    own = [row for row in rows() if row["segment"] != "NSE_FO"]
    assert len(own) == 36
    for row in own:
        told = {name: value for name, value in row.items() if name not in {"cas_eligible", "short_name"}}
        assert told.items() <= real[row["instrument_key"]].items()


@pytest.mark.realdata
def test_contracts_have_the_brokers_lots_ticks_and_freezes() -> None:
    names = (
        "lot_size",
        "minimum_lot",
        "freeze_quantity",
        "tick_size",
        "asset_key",
        "underlying_type",
        "name",
        "qty_multiplier",
        "exchange",
    )

    def told(row: dict[str, Any]) -> tuple[Any, ...]:
        return (row["underlying_symbol"], row["instrument_type"], *(row[name] for name in names))

    symbols = {index.symbol for index in master.INDICES}
    real = {told(row) for row in real_rows() if row["segment"] == "NSE_FO" and row["underlying_symbol"] in symbols}
    assert {told(row) for row in rows() if row["segment"] == "NSE_FO"} <= real


def test_the_default_master_holds_what_the_default_rules_follow() -> None:
    found = rows()
    assert 1500 <= len(found) <= 2000
    strikes = Counter((row["underlying_symbol"], row["expiry"]) for row in found if row.get("instrument_type") == "CE")
    for index in master.INDICES[:4]:
        counts = [count for (symbol, _), count in sorted(strikes.items()) if symbol == index.symbol]
        assert counts[0] >= 81
        assert len(counts) == (7 if index.symbol == "NIFTY" else 3)
    futures = Counter(row["underlying_symbol"] for row in found if row.get("instrument_type") == "FUT")
    assert futures == {index.symbol: 3 for index in master.INDICES}


def test_the_last_tuesday_is_not_weekly_and_only_nifty_has_weeklies() -> None:
    weekly = {(row["underlying_symbol"], row["trading_symbol"][-9:]) for row in rows() if row.get("weekly")}
    assert weekly == {("NIFTY", f"{day} DEC 26") for day in ("01", "08", "15", "22")}


@pytest.mark.parametrize("wanted", [1, 2500, 3500, 5000])
def test_strikes_widen_until_there_are_enough_instruments(wanted: int) -> None:
    found = rows(instruments=wanted)
    assert wanted <= len(found) <= max(2000, wanted * 1.1)
    assert min(row["strike_price"] for row in found if row["instrument_type"] in {"CE", "PE"}) > 0


def test_more_than_the_most_is_the_most() -> None:
    assert len(rows(instruments=100_000)) == len(rows(instruments=master.MOST_INSTRUMENTS))


def test_keys_are_unique_and_a_contract_keeps_its_own() -> None:
    def keys(day: date, instruments: int | None) -> dict[str, str]:
        found = rows(day, instruments)
        named = {row["instrument_key"]: row["trading_symbol"] for row in found}
        assert len(named) == len(found)
        return named

    today, later = keys(DAY, 5000), keys(date(2026, 12, 8), 5000)
    shared = today.keys() & later.keys()
    assert len(shared) > 2000
    assert all(today[key] == later[key] for key in shared)
    assert len(set(today.values()) & set(later.values())) == len(shared)


def test_a_row_reads_as_the_brokers() -> None:
    row = next(row for row in rows() if row.get("trading_symbol") == "MIDCPNIFTY 14225 PE 29 DEC 26")
    assert row | {"instrument_key": "", "exchange_token": ""} == {
        "weekly": False, "segment": "NSE_FO", "name": "MIDCPNIFTY", "exchange": "NSE", "expiry": 1798568999000, "instrument_type": "PE",
        "asset_symbol": "MIDCPNIFTY", "underlying_symbol": "MIDCPNIFTY", "instrument_key": "", "lot_size": 120, "freeze_quantity": 2760.0,
        "exchange_token": "", "minimum_lot": 120, "asset_key": "NSE_INDEX|NIFTY MID SELECT", "underlying_key": "NSE_INDEX|NIFTY MID SELECT",
        "tick_size": 5.0, "asset_type": "INDEX", "underlying_type": "INDEX", "trading_symbol": "MIDCPNIFTY 14225 PE 29 DEC 26",
        "strike_price": 14225.0, "qty_multiplier": 1.0,
    }  # fmt: skip
    assert row["instrument_key"] == f"NSE_FO|{row['exchange_token']}"
