"""What words for expiries meant earlier, on the hand-made market before and after contracts were retired."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from instruments.chain_listing import NoSuchChain
from instruments.domain.instrument import IST
from instruments.models import Instrument
from instruments.past_expiries import expiry_at
from instruments.services import instruments_refresh
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, MONTHLY, NEXT_MONTHLY, NEXT_WEEKLY, WEEKLY, market

pytestmark = pytest.mark.django_db


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST)


def test_words_mean_what_they_meant_then_although_the_contracts_are_gone() -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    left = [row for row in market() if not row.trading_symbol.endswith(f"{WEEKLY:%d %b %y}".upper())]
    instruments_refresh(rows=left, source="test", as_of=datetime(2026, 11, 18, 2, tzinfo=UTC), force=True)
    before, after = at(WEEKLY, 15, 39), at(WEEKLY, 15, 40)
    assert [expiry_at("NIFTY", word, before) for word in ("@w0", "@w1", "@w2", "@m0", "@m1")] == [
        WEEKLY, MONTHLY, NEXT_WEEKLY, MONTHLY, NEXT_MONTHLY,
    ]  # fmt: skip
    assert [expiry_at("NIFTY", word, after) for word in ("@w0", "@w1", "@m0")] == [MONTHLY, NEXT_WEEKLY, MONTHLY]
    assert expiry_at("NIFTY", WEEKLY.isoformat(), at(NEXT_MONTHLY, 12)) == WEEKLY


def test_what_was_never_listed_is_said_with_what_was() -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    with pytest.raises(NoSuchChain) as nobody:
        expiry_at("NOBODY", "@w0", at(WEEKLY, 12))
    assert nobody.value.field == "underlying"
    with pytest.raises(NoSuchChain, match="2026-11-23, 2026-12-01, 2026-12-29") as nowhere:
        expiry_at("NIFTY", "@w7", at(MONTHLY, 12))
    assert nowhere.value.field == "expiry"


def test_only_what_had_not_expired_then_is_read() -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    with profiled(Instrument._meta.db_table) as entries:
        assert expiry_at("NIFTY", "@w0", at(NEXT_WEEKLY, 12)) == NEXT_WEEKLY
    assert_by_index(entries, at_most=2 * 42)  # two expiries, 21 strikes, both sides
    with pytest.raises(NoSuchChain, match="expire on 2027-01-01 or later"):
        expiry_at("NIFTY", "@w0", at(date(2027, 1, 1), 12))
    with pytest.raises(ValueError, match="is no expiry"):
        expiry_at("NIFTY", "tomorrow", at(WEEKLY, 12))
