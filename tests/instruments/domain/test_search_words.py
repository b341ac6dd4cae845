"""A trader's search, taken apart."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.domain.search_words import SearchWords, read_search, spellings, strike_ranges


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("nifty 25000 ce", SearchWords("NIFTY 25000 CE", ("NIFTY",), "25000", "CE")),
        ("  NIFTY   25000CE ", SearchWords("NIFTY 25000CE", ("NIFTY",), "25000", "CE")),
        ("banknifty fut", SearchWords("BANKNIFTY FUT", ("BANKNIFTY",), None, "FUT")),
        ("bank nifty futures", SearchWords("BANK NIFTY FUTURES", ("BANK", "NIFTY"), None, "FUT")),
        ("reliance", SearchWords("RELIANCE", ("RELIANCE",))),
        ("nifty put 24950", SearchWords("NIFTY PUT 24950", ("NIFTY",), "24950", "PE")),
        ("nifty 28 jul 25000 pe", SearchWords("NIFTY 28 JUL 25000 PE", ("NIFTY",), "25000", "PE", day=28, month=7)),
        ("nifty 28jul26 25000 pe", SearchWords("NIFTY 28JUL26 25000 PE", ("NIFTY",), "25000", "PE", day=28, month=7, year=2026)),
        ("NIFTY 25000 CE 28 JUL 26", SearchWords("NIFTY 25000 CE 28 JUL 26", ("NIFTY",), "25000", "CE", day=28, month=7, year=2026)),
        ("nifty 2026-07-28 25000", SearchWords("NIFTY 2026-07-28 25000", ("NIFTY",), "25000", day=28, month=7, year=2026)),
        ("nifty december 25000", SearchWords("NIFTY DECEMBER 25000", ("NIFTY",), "25000", month=12)),
        ("nifty weekly 25000 ce", SearchWords("NIFTY WEEKLY 25000 CE", ("NIFTY",), "25000", "CE", weekly=True)),
        ("crompton 132.5 ce", SearchWords("CROMPTON 132.5 CE", ("CROMPTON",), "132.5", "CE")),
        ("nifty 25,000 calls", SearchWords("NIFTY 25000 CALLS", ("NIFTY",), "25000", "CE")),
        ("nifty option 25000p", SearchWords("NIFTY OPTION 25000P", ("NIFTY",), "25000", "PE")),
        ("nifty ce atm", SearchWords("NIFTY CE ATM", ("NIFTY",), None, "CE")),
        ("nifty 14/7/26", SearchWords("NIFTY 14-7-26", ("NIFTY",), day=14, month=7, year=2026)),
        ("nifty 25000 ce 28", SearchWords("NIFTY 25000 CE 28", ("NIFTY",), "25000", "CE", day=28)),
        ("nifty 25000 ce 2027", SearchWords("NIFTY 25000 CE 2027", ("NIFTY",), "25000", "CE", year=2027)),
        ("nifty 50 25000", SearchWords("NIFTY 50 25000", ("NIFTY",), "25000")),
        ("tcs 2040", SearchWords("TCS 2040", ("TCS",), "2040")),
        ("nifty 28-jul-2026", SearchWords("NIFTY 28-JUL-2026", ("NIFTY",), day=28, month=7, year=2026)),
        ("nifty junior", SearchWords("NIFTY JUNIOR", ("NIFTY", "JUNIOR"))),
        ("nifty @m0 25.5kce", SearchWords("NIFTY @M0 25500CE", ("NIFTY",), "25500", "CE", slot="@m0")),
        ("nifty next-month fut", SearchWords("NIFTY @M1 FUT", ("NIFTY",), None, "FUT", slot="@m1")),
        ("nifty @w٣", SearchWords("NIFTY @W٣", ("NIFTY", "@W٣"))),  # a digit, but none of an expiry's word
        ("nifty 28th jul", SearchWords("NIFTY 28TH JUL", ("NIFTY",), day=28, month=7)),
        ("nifty 1st 25000 ce", SearchWords("NIFTY 1ST 25000 CE", ("NIFTY",), "25000", "CE", day=1)),
        ("25000", SearchWords("25000", ("25000",))),
        ("ce", SearchWords("CE", ("CE",))),
        ("", SearchWords("", ())),
    ],
)
def test_words_mean_what_a_trader_means(typed: str, expected: SearchWords) -> None:
    assert read_search(typed) == expected


@pytest.mark.parametrize(
    ("typed", "also"),
    [
        ("nifty25000ce", "NIFTY 25000 CE"),
        ("NIFTY26JUL25000PE", "NIFTY 26JUL 25000 PE"),
        ("banknifty58000 pe", "BANKNIFTY 58000 PE"),
        ("NIFTY28JUL2625000PE", "NIFTY 28JUL26 25000 PE"),
        ("NIFTY26O0625000CE", "NIFTY 2026-10-06 25000 CE"),
        ("360one1100ce", "360ONE 1100 CE"),
        ("25000 ce bank nifty", "BANK NIFTY 25000 CE"),
        ("nifty-25000-ce", "nifty 25000 ce"),
        ("nifty novembr fut", "NIFTY NOVEMBER FUT"),
        ("niftyfut", "NIFTY FUT"),
        ("nifty 25000 cee", "NIFTY 25000 CE"),
        ("nifty fyt", "NIFTY FUT"),
        ("nifty wekly 25000", "NIFTY WEEKLY 25000"),
        ("reliance nvo fut", "RELIANCE NOV FUT"),
    ],
)
def test_what_is_written_together_or_wrong_is_read_so_too(typed: str, also: str) -> None:
    assert spellings(typed)[0] == typed
    assert also in spellings(typed)[1:]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bnf 58000 ce", "BANKNIFTY 58000 CE"),
        ("nifty next 50 fut", "NIFTYNXT50 FUT"),
        ("Nifty 50", "NIFTY"),
        ("25000 ce bn", "BANKNIFTY 25000 CE"),
    ],
)
def test_a_nickname_is_read_as_its_symbol_too(typed: str, meant: str) -> None:
    found = spellings(typed)
    assert meant in found
    assert typed in found


@given(st.text(max_size=60))
def test_every_text_is_a_search(typed: str) -> None:
    for words in map(read_search, spellings(typed)):
        if words.strike is not None:
            assert strike_ranges(words.strike)


@pytest.mark.parametrize(
    ("typed", "ranges"),
    [
        ("2500000", [(2500000.0, 2500001.0)]),
        ("25000", [(25000.0, 25001.0), (250000.0, 250010.0), (2500000.0, 2500100.0)]),
        ("132.5", [(132.5, 132.6)]),
        ("95.87", [(95.87, 95.88)]),
        ("95.", [(95.0, 96.0)]),
    ],
)
def test_strikes_that_begin_so(typed: str, ranges: list[tuple[float, float]]) -> None:
    assert strike_ranges(typed) == [pytest.approx(each) for each in ranges]


@given(st.integers(1, 9_999_999), st.integers(1, 7))
def test_a_strike_is_found_by_each_of_its_beginnings(strike: int, length: int) -> None:
    typed = str(strike)[:length]
    assert any(low <= strike < high for low, high in strike_ranges(typed))


def test_parts_of_a_date_that_are_not_given_match_any() -> None:
    words = read_search("nifty 28 jul ce")
    assert words.expiry_matches(date(2026, 7, 28))
    assert words.expiry_matches(date(2027, 7, 28))
    assert not words.expiry_matches(date(2026, 7, 21))
    assert read_search("nifty ce").expiry_matches(date(2026, 7, 21))
