"""Search on the real master of July 2026: what a trader types finds what a person finds in the exchange's file, mistakes forgiven."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruments.domain.expiry import usual_end_ms
from instruments.domain.search_words import NICKNAMES
from instruments.search_index import Listed, SearchIndex
from tests.instruments.rows import REAL_MASTER, needs_real_master

pytestmark = [pytest.mark.realdata, needs_real_master]
JULY = round(datetime.fromisoformat("2026-07-07T09:30:00+05:30").timestamp() * 1000)
AFTER_TRADING = round(datetime.fromisoformat("2026-07-07T15:30:00+05:30").timestamp() * 1000)
SPOTS = {"NSE_INDEX|Nifty 50": 25013.0, "NSE_INDEX|Nifty Bank": 57830.0}


@pytest.fixture(scope="module")
def master() -> list[dict[str, Any]]:
    with gzip.open(REAL_MASTER) as file:
        rows: list[dict[str, Any]] = json.load(file)
    return rows


def listed(rows: list[dict[str, Any]]) -> list[Listed]:
    names = (
        "segment",
        "instrument_type",
        "trading_symbol",
        "name",
        "isin",
        "underlying_symbol",
        "underlying_key",
        "expiry",
        "weekly",
        "strike_price",
    )
    return [Listed(number, *(row.get(name) for name in names)) for number, row in enumerate(rows)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def index(master: list[dict[str, Any]]) -> SearchIndex:
    return SearchIndex(listed(master))


@pytest.fixture(scope="module")
def symbols(master: list[dict[str, Any]]) -> list[str]:
    return [row["trading_symbol"] for row in master]


def found(index: SearchIndex, symbols: list[str], query: str, limit: int = 10, at_ms: int = JULY) -> list[str]:
    return [symbols[number] for number in index.find(query, limit=limit, at_ms=at_ms, spots=SPOTS, end_of=usual_end_ms)]


NIFTY_25000 = [f"NIFTY 25000 CE {day} 26" for day in ("07 JUL", "14 JUL", "21 JUL", "28 JUL", "04 AUG", "25 AUG")]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("nifty 25000 ce", NIFTY_25000),
        ("banknifty 58000 pe sep", ["BANKNIFTY 58000 PE 29 SEP 26"]),
        ("reliance", ["RELIANCE", "RELIANCE FUT 28 JUL 26", "RELIANCE FUT 25 AUG 26", "RELIANCE FUT 29 SEP 26"]),
        ("nifty fut", ["NIFTY FUT 28 JUL 26", "NIFTY FUT 25 AUG 26", "NIFTY FUT 29 SEP 26"]),
        ("nifty 25mar 24000 pe", ["NIFTY 24000 PE 30 MAR 27"]),
        ("nifty weekly 25000 ce", [*NIFTY_25000[:3], NIFTY_25000[4]]),
        ("nifty ce", ["NIFTY 25000 CE 07 JUL 26", "NIFTY 25050 CE 07 JUL 26", "NIFTY 24950 CE 07 JUL 26"]),
        ("banknifty 57", ["BANKNIFTY 57800 CE 28 JUL 26", "BANKNIFTY 57800 PE 28 JUL 26", "BANKNIFTY 57900 CE 28 JUL 26"]),
        ("nifty 24 ce", ["NIFTY 24950 CE 07 JUL 26", "NIFTY 24900 CE 07 JUL 26"]),
        ("nifty next 50", ["NIFTYNXT50"]),
        ("nifty 50", ["NIFTY"]),
        ("state bank of india", ["SBIN"]),
        ("INE002A01018", ["RELIANCE"]),
        ("m&m fut", ["M&M FUT 28 JUL 26"]),
        ("usdinr 85 ce", ["USDINR 85 CE 28 SEP 26"]),
        ("rel ind 1400 ce", ["RELIANCE 1400 CE 28 JUL 26"]),
        # written together
        ("nifty25000ce", NIFTY_25000),
        ("NIFTY26JUL25000CE", NIFTY_25000[:4]),
        ("banknifty58000 pe", ["BANKNIFTY 58000 PE 28 JUL 26"]),
        ("nifty2671425000ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("NIFTY14JUL2625000CE", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty28jul26fut", ["NIFTY FUT 28 JUL 26"]),
        ("360one1100ce", ["360ONE 1100 CE 28 JUL 26"]),
        ("nifty-25000-ce", NIFTY_25000),
        ("bajaj-auto26julfut", ["BAJAJ-AUTO FUT 28 JUL 26"]),
        # by a nickname
        ("bnf 58000 ce", ["BANKNIFTY 58000 CE 28 JUL 26"]),
        ("bn", ["BANKNIFTY", "BANKNIFTY FUT 28 JUL 26"]),
        ("bn58000pe", ["BANKNIFTY 58000 PE 28 JUL 26"]),
        ("nf 25000 ce", NIFTY_25000),
        ("nifty bank aug 58000 ce", ["BANKNIFTY 58000 CE 25 AUG 26"]),
        ("nifty 50 25000 ce", NIFTY_25000),
        ("nifty50 fut", ["NIFTY FUT 28 JUL 26"]),
        ("nifty next 50 fut", ["NIFTYNXT50 FUT 28 JUL 26"]),
        ("nifty junior", ["NIFTYNXT50"]),
        ("midcap nifty fut", ["MIDCPNIFTY FUT 28 JUL 26"]),
        ("l&t fut", ["LT FUT 28 JUL 26"]),
        # in other words and orders
        ("25000 ce nifty", NIFTY_25000),
        ("28 jul nifty 25000 ce", ["NIFTY 25000 CE 28 JUL 26"]),
        ("nifty 25,000 ce", NIFTY_25000),
        ("nifty 25000call", NIFTY_25000),
        ("nifty 25000 call option", NIFTY_25000),
        ("nifty options", ["NIFTY 25000 CE 07 JUL 26", "NIFTY 25000 PE 07 JUL 26"]),
        ("nifty 14/07/2026 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty 25000 ce 28", ["NIFTY 25000 CE 28 JUL 26"]),
        ("nifty 25000 ce 26", NIFTY_25000),  # the year
        ("nifty 25000 ce 2027", ["NIFTY 25000 CE 28 DEC 27"]),
        ("nifty 14-jul 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        # with mistakes
        ("nitfy fut", ["NIFTY FUT 28 JUL 26"]),
        ("niffty 25000 ce", NIFTY_25000),
        ("bankinfty 58000 pe", ["BANKNIFTY 58000 PE 28 JUL 26"]),
        ("finifty 27000 ce", ["FINNIFTY 27000 CE 28 JUL 26"]),
        ("relaince", ["RELIANCE"]),
        ("relience fut", ["RELIANCE FUT 28 JUL 26"]),
        ("hdfc bnak", ["HDFCBANK"]),
        ("india vx", ["INDIA VIX"]),
        ("nifty 25000 cee", NIFTY_25000),
        ("nifty fyt", ["NIFTY FUT 28 JUL 26"]),
        ("nifty 25010 ce", NIFTY_25000),
        # days, weeks and months in other words
        ("nifty 28th jul 25000 ce", ["NIFTY 25000 CE 28 JUL 26"]),
        ("1st sept nifty fut", ["NIFTY FUT 29 SEP 26"]),
        ("nifty jul 28 25000 ce", ["NIFTY 25000 CE 28 JUL 26"]),
        ("nifty july 14 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty 14 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty 14/7 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty 14.07.2026 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty 14jul25000ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty july expiry 25000 ce", NIFTY_25000[:4]),
        ("next week nifty 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("banknifty this month 58000 pe", ["BANKNIFTY 58000 PE 28 JUL 26"]),
        ("nifty far month fut", ["NIFTY FUT 29 SEP 26"]),
        ("nifty next fut", ["NIFTY FUT 25 AUG 26"]),
        ("nifty aug 4th", ["NIFTY 25000 CE 04 AUG 26"]),
        ("nifty 25000 ce 28 07 2026", ["NIFTY 25000 CE 28 JUL 26"]),
        ("nifty 25000 ce 28 jul'26", ["NIFTY 25000 CE 28 JUL 26"]),
        # strikes and sides in other words
        ("nifty ce25000", NIFTY_25000),
        ("nifty 25k ce", NIFTY_25000),
        ("banknifty 57.5k pe", ["BANKNIFTY 57500 PE 28 JUL 26"]),
        ("bnf 58k", ["BANKNIFTY 58000 CE 28 JUL 26", "BANKNIFTY 58000 PE 28 JUL 26"]),
        ("nifty25kce", NIFTY_25000),
        ("nifty 25000 ce pe", ["NIFTY 25000 CE 07 JUL 26", "NIFTY 25000 PE 07 JUL 26"]),
        ("nifty 25000 straddle", ["NIFTY 25000 CE 07 JUL 26", "NIFTY 25000 PE 07 JUL 26"]),
        ("nifty option chain", ["NIFTY 25000 CE 07 JUL 26", "NIFTY 25000 PE 07 JUL 26"]),
        # as other programs and people call them
        ("NFO:NIFTY26JUL25000CE", NIFTY_25000[:4]),
        ("NSE:RELIANCE-EQ", ["RELIANCE"]),
        ("RELIANCE.NS", ["RELIANCE"]),
        ("NSE:NIFTY50-INDEX", ["NIFTY"]),
        ("reliance share", ["RELIANCE"]),
        ("nifty spot", ["NIFTY"]),
        ("sbin eq", ["SBIN"]),
        ("reliance nse", ["RELIANCE"]),
        ("infosys ltd", ["INFY"]),
        ("tcs limited", ["TCS"]),
        ("larsen and toubro", ["LT"]),
        ("bob", ["BANKBARODA"]),
        ("tata consultancy services", ["TCS"]),
        ("jio financial services", ["JIOFIN"]),
        ("tatamotors fut", ["TMPV FUT 28 JUL 26"]),
        ("tata motors", ["TMPV", "TMCV"]),
        ("tata motors limited", ["TMCV"]),
        ("indianoil", ["IOC"]),
        ("21st century", ["21STCENMGM"]),
        ("usdinr 95.87 ce sep", ["USDINR 95.875 CE 04 SEP 26"]),
        ("usdinr 86.2500 ce", ["USDINR 86.25 CE 28 SEP 26"]),
    ],
)
def test_what_is_meant_comes_first(index: SearchIndex, symbols: list[str], query: str, first: list[str]) -> None:
    assert found(index, symbols, query)[: len(first)] == first


@pytest.mark.parametrize(
    ("query", "all_of_it"),
    [
        ("nifty @w0 25000 ce", ["NIFTY 25000 CE 07 JUL 26"]),
        ("nifty w1 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty this week 25000 ce", ["NIFTY 25000 CE 07 JUL 26"]),
        ("nifty next week's 25000 ce", ["NIFTY 25000 CE 14 JUL 26"]),
        ("nifty @w3 25000 ce", ["NIFTY 25000 CE 28 JUL 26"]),  # the month's slot is its week's
        ("nifty @m1 25000 ce", ["NIFTY 25000 CE 25 AUG 26"]),
        ("banknifty next month fut", ["BANKNIFTY FUT 25 AUG 26"]),
        ("banknifty next week 58000 ce", []),  # it has no weeklies
    ],
)
def test_a_word_for_an_expiry_means_that_one_alone(index: SearchIndex, symbols: list[str], query: str, all_of_it: list[str]) -> None:
    assert found(index, symbols, query) == all_of_it


def test_contracts_on_a_renamed_share_are_found_by_its_former_symbol(master: list[dict[str, Any]], symbols: list[str]) -> None:
    rows = [row._replace(former=("OLDNAME",)) if row.symbol == "RELIANCE" else row for row in listed(master)]
    renamed = SearchIndex(row for row in rows if "RELIANCE" in (row.symbol, row.underlying_symbol))
    assert found(renamed, symbols, "oldname 1400 ce", limit=1) == ["RELIANCE 1400 CE 28 JUL 26"]
    assert found(renamed, symbols, "oldname", limit=2) == ["RELIANCE", "RELIANCE FUT 28 JUL 26"]


def test_this_week_ends_with_its_last_trade(index: SearchIndex, symbols: list[str]) -> None:
    assert found(index, symbols, "nifty @w0 25000 ce", at_ms=AFTER_TRADING) == ["NIFTY 25000 CE 14 JUL 26"]


@pytest.mark.parametrize("query", ["zzz", "(((", "nifty 99 ce", "qqqqqqqqqqq fut", "\x00", "nifty 25000 ce nov 2031"])
def test_what_is_not_there_is_not_found(index: SearchIndex, symbols: list[str], query: str) -> None:
    assert found(index, symbols, query) == []


@settings(max_examples=100, deadline=None)
@given(st.text("NIFTYBankl&t-|,/. 0257CEPfutjul", max_size=20))
def test_whatever_is_typed_is_answered_with_as_many_as_were_asked_for(index: SearchIndex, symbols: list[str], query: str) -> None:
    answer = found(index, symbols, query, limit=5)
    assert len(answer) <= 5


def test_no_nickname_is_a_symbol_and_each_means_one(master: list[dict[str, Any]], symbols: list[str]) -> None:
    assert NICKNAMES.keys() & set(symbols) == set()
    assert set(NICKNAMES.values()) <= {row.get("underlying_symbol") for row in master}


def test_a_contract_is_found_until_its_trading_ends(index: SearchIndex, symbols: list[str]) -> None:
    assert found(index, symbols, "nifty 25000 ce", at_ms=AFTER_TRADING - 1)[0] == NIFTY_25000[0]
    assert found(index, symbols, "nifty 25000 ce", at_ms=AFTER_TRADING)[0] == NIFTY_25000[1]


def test_every_contract_is_found_by_its_own_symbol(index: SearchIndex, symbols: list[str]) -> None:
    derivatives = [
        symbol for symbol in symbols if symbol.startswith(("NIFTY ", "RELIANCE ", "BANKNIFTY ")) and symbol.endswith((" 26", " 27"))
    ]
    checked = derivatives[:: len(derivatives) // 300]
    assert len(checked) >= 300
    assert [symbol for symbol in checked if found(index, symbols, symbol.lower(), limit=1) != [symbol]] == []


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["BANKNIFTY", "MIDCPNIFTY", "RELIANCE", "HDFCBANK", "TATASTEEL", "MARUTI"]),
    place=st.integers(1, 7),
    kind=st.sampled_from(["swap", "drop", "double"]),
)
def test_one_slip_in_a_name_is_forgiven(index: SearchIndex, symbols: list[str], name: str, place: int, kind: str) -> None:
    place = min(place, len(name) - 2)
    slips = {
        "swap": name[:place] + name[place + 1] + name[place] + name[place + 2 :],
        "drop": name[:place] + name[place + 1 :],
        "double": name[:place] + name[place] + name[place:],
    }
    assert f"{name} FUT 28 JUL 26" in found(index, symbols, f"{slips[kind]} fut".lower(), limit=20)


def test_its_memory_is_what_python_says_it_takes(master: list[dict[str, Any]], index: SearchIndex) -> None:
    rows = listed(master)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = SearchIndex(iter(rows))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"search index: {made.size} instruments, {made.memory_bytes / 1e6:.1f} MB counted, {taken / 1e6:.1f} MB traced")
    assert made.memory_bytes == pytest.approx(taken, rel=0.3)
    assert made.size == index.size == 84_546
