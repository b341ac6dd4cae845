"""Keys, identities, fingerprints."""

from __future__ import annotations

from datetime import UTC, date, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.domain.instrument import (
    InstrumentRow,
    day_end,
    fingerprint_of,
    identity_of,
    ist_date,
    ms_of,
    placeholder_identity,
    repeated,
    split_key,
)
from tests.instruments.rows import equity, future, index, option


@pytest.mark.parametrize(
    ("key", "segment", "exchange"),
    [
        ("NSE_FO|51420", "NSE_FO", "NSE"),
        ("NSE_INDEX|Nifty 50", "NSE_INDEX", "NSE"),
        ("NSE_INDEX|BHARATBOND-APR30", "NSE_INDEX", "NSE"),
        ("NCD_FO|14294", "NCD_FO", "NSE"),
        ("BCD_FO|1", "BCD_FO", "BSE"),
        ("MCX_FO|449534", "MCX_FO", "MCX"),
        ("GLOBAL_INDICATOR|USDINR"[:80], "GLOBAL_INDICATOR"[:12], "GLOBAL"),
    ],
)
def test_split_key_takes_every_real_form(key: str, segment: str, exchange: str) -> None:
    if len(key.split("|")[0]) > 12:
        with pytest.raises(ValueError, match="NSE_FO"):
            split_key(key)
        return
    assert split_key(key).segment == segment
    assert split_key(key).exchange == exchange


@pytest.mark.parametrize(
    "key", ["", "|", "NSE_FO", "NSE_FO|", "|51420", "nse_fo|1", "NSE_FO|1|2", "NSE_FO|a\nb", "NSE_FO|" + "9" * 80, "NSE FO|1"]
)
def test_split_key_refuses_what_is_no_key_and_shows_one(key: str) -> None:
    with pytest.raises(ValueError, match=r"looks like NSE_FO\|51420"):
        split_key(key)


@pytest.mark.parametrize(
    ("row", "identity"),
    [
        (option(51420, 25000.0), "NSE_FO:NIFTY:2026-11-17:25000:CE"),
        (option(51420, 132.5, "PE"), "NSE_FO:NIFTY:2026-11-17:132.5:PE"),
        (future(7), "NSE_FO:NIFTY:2026-11-23::FUT"),
        (equity(), "NSE_EQ:INE002A01018"),
        (index(), "NSE_INDEX|Nifty 50"),
        (InstrumentRow("NSE_COM|7", "NSE_COM", "NSE", "COM", "GOLD", "GOLD"), "NSE_COM|7"),
    ],
)
def test_identity_says_what_it_is(row: InstrumentRow, identity: str) -> None:
    assert identity_of(row) == identity


def test_identity_survives_another_key_lot_series_or_name() -> None:
    assert identity_of(option(1, lot=75)) == identity_of(option(2, lot=65))
    assert identity_of(equity(series="EQ")) == identity_of(equity(series="BE", symbol="RIL", name="RIL"))


def test_a_placeholder_is_never_another_instrument() -> None:
    assert placeholder_identity("NSE_FO|1", 5) != placeholder_identity("NSE_FO|1", 6)
    assert placeholder_identity("NSE_FO|1", 5) != "NSE_FO|1"


def test_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint_of(index()) == 1891574664714356823


@given(st.sampled_from(["trading_symbol", "name", "lot_size", "tick_size", "weekly", "isin", "instrument_key"]))
def test_fingerprint_differs_when_any_field_differs(field: str) -> None:
    row = option(51420)
    other = {"lot_size": 30, "tick_size": 0.1, "weekly": False}.get(field, "other")
    assert fingerprint_of(msgspec.structs.replace(row, **{field: other})) != fingerprint_of(row)
    assert -(2**63) <= fingerprint_of(row) < 2**63


def test_an_expiry_day_ends_a_second_before_midnight_in_india() -> None:
    assert day_end(date(2026, 11, 23)) == datetime(2026, 11, 23, 18, 29, 59, tzinfo=UTC)
    assert ist_date(ms_of(day_end(date(2026, 11, 23)))) == date(2026, 11, 23)
    assert ist_date(ms_of(day_end(date(2026, 11, 23))) + 1000) == date(2026, 11, 24)


@given(st.lists(st.sampled_from("abcde")))
def test_repeated_names_what_comes_more_than_once(values: list[str]) -> None:
    assert repeated(values) == {value for value in values if values.count(value) > 1}
