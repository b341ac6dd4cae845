"""Search on the real mongod: what is found, in which order, and how little is read for it."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from instruments.models import Instrument
from instruments.search import index_built, index_current, index_forget, search
from instruments.services import instrument_placeholder_create, instruments_refresh
from tests.instruments.rows import DAY_1, DAY_2, equity, market

pytestmark = pytest.mark.django_db
AFTER_TRADING = datetime.fromisoformat("2026-11-17T15:40:00+05:30")


@pytest.fixture(autouse=True)
def small_market(db: None) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)


def found(query: str, limit: int = 8, at: datetime = DAY_1) -> list[str]:
    return [document["trading_symbol"] for document in search(query, limit=limit, at=at)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        (
            "nifty 25000 ce",
            ["NIFTY 25000 CE 17 NOV 26", "NIFTY 25000 CE 23 NOV 26", "NIFTY 25000 CE 01 DEC 26", "NIFTY 25000 CE 29 DEC 26"],
        ),
        ("nifty 25000ce dec", ["NIFTY 25000 CE 01 DEC 26", "NIFTY 25000 CE 29 DEC 26"]),
        ("nifty monthly 25000 pe", ["NIFTY 25000 PE 23 NOV 26", "NIFTY 25000 PE 29 DEC 26"]),
        ("NIFTY 25050 PE 23 NOV 26", ["NIFTY 25050 PE 23 NOV 26"]),
        ("banknifty fut", ["BANKNIFTY FUT 23 NOV 26"]),
        ("bank nifty", ["BANKNIFTY", "BANKNIFTY FUT 23 NOV 26", "BANKNIFTY 50000 CE 23 NOV 26"]),
        ("reliance", ["RELIANCE", "RELINFRA"]),
        ("reliance industries", ["RELIANCE"]),
        ("rel", ["RELIANCE", "RELINFRA"]),
        ("hdfc bank", ["HDFCBANK"]),
        ("india vix", ["INDIA VIX"]),
        ("nifty", ["NIFTY", "NIFTY FUT 23 NOV 26", "NIFTY FUT 29 DEC 26", "BANKNIFTY", "NIFTY 24500 CE 17 NOV 26"]),
        ("nifty 2505", ["NIFTY 25050 CE 17 NOV 26", "NIFTY 25050 PE 17 NOV 26", "NIFTY 25050 CE 23 NOV 26"]),
        ("nif 25000 ce", ["NIFTY 25000 CE 17 NOV 26"]),
        ("NSE_INDEX|Nifty 50", ["NIFTY"]),
    ],
)
def test_the_best_comes_first(query: str, first: list[str]) -> None:
    assert found(query)[: len(first)] == first


@pytest.mark.parametrize(
    "query", ["", "   ", "zzz", "(((", "^.*$", "NSE_FO|404", "id:0", "id:" + "9" * 30, "|", "nifty 99 ce", "ce", "\x00", "x" * 500]
)
def test_what_is_not_there_is_not_found(query: str) -> None:
    assert found(query) == []


def test_nothing_comes_twice_and_never_more_than_asked() -> None:
    symbols = found("nifty", limit=100)
    assert len(symbols) == len(set(symbols)) == 100
    assert len(found("nifty", limit=1)) == 1


def test_dead_contracts_are_not_found() -> None:
    assert found("nifty 25000 ce")[0] == "NIFTY 25000 CE 17 NOV 26"
    assert found("nifty 25000 ce", at=AFTER_TRADING)[0] == "NIFTY 25000 CE 23 NOV 26"


def test_retired_instruments_are_found_by_id_only() -> None:
    gone = Instrument.objects.get(trading_symbol="RELINFRA")
    instruments_refresh(rows=[row for row in market() if row.trading_symbol != "RELINFRA"], source="test")
    index_forget()
    assert found("relinfra") == []
    assert found(f"id:{gone.pk}") == ["RELINFRA"]


def test_a_placeholder_is_found_by_its_key() -> None:
    instrument_placeholder_create(keys=["NSE_FO|777777"], at=DAY_1)
    assert found("NSE_FO|777777") == ["NSE_FO|777777"]


def test_a_newer_master_is_searched_without_a_restart() -> None:
    assert found("relinfra") == ["RELINFRA"]
    before = index_current()
    instruments_refresh(rows=[row for row in market() if row.trading_symbol != "RELINFRA"], source="test")
    deadline = time.monotonic() + 60
    while index_current() is before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found("relinfra") == []


def test_a_renamed_share_is_still_found_by_its_former_symbol() -> None:
    renamed = equity("ETERNAL2", "ETERNAL TWO LTD", "INE040A01034")  # HDFCBANK until now
    rows = [row for row in market() if row.trading_symbol != "HDFCBANK"]
    instruments_refresh(rows=[*rows, renamed], source="test", as_of=DAY_2)
    index_forget()
    assert found("hdfcbank") == ["ETERNAL2"]
    assert found("hdfcb") == ["ETERNAL2"]
    assert found("eternal two") == ["ETERNAL2"]


def test_its_memory_is_told_and_is_what_it_takes() -> None:
    index_current()
    built = index_built()
    assert built is not None
    assert built.search_index.size == len(market())
    assert built.search_index.memory_bytes > 1000
