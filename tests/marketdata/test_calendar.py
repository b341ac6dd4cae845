"""The calendar in the store."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from marketdata import calendar
from marketdata.calendar import calendar_read, sessions_record
from marketdata.domain.session import Hours
from marketdata.models import MarketSession

IST = timezone(timedelta(hours=5, minutes=30))
pytestmark = pytest.mark.django_db


def ist(day: int, hour: int = 0, minute: int = 0) -> int:
    """A time of November 2026, ms UTC."""
    return round(datetime(2026, 11, day, hour, minute, tzinfo=IST).timestamp() * 1000)


MUHURAT = Hours("NSE", ist(8), ist(8, 18), ist(8, 19, 15), "Muhurat Trading")
HOLIDAY = Hours("NSE", ist(24), 0, 0, "Guru Nanak Jayanti")


def test_what_is_recorded_is_read() -> None:
    assert calendar_read().hours("NSE_EQ", ist(8, 12)) is None
    assert sessions_record([MUHURAT, HOLIDAY]) == 2
    known = calendar_read()
    assert known.hours("NSE_EQ", ist(8, 23, 59)) == MUHURAT
    assert known.hours("NSE_INDEX", ist(24)) == HOLIDAY
    assert known.hours("NSE_EQ", ist(9)) is None
    assert known.hours("MCX_FO", ist(8, 18)) is None


def test_a_row_is_named_by_its_exchange_and_indian_day() -> None:
    sessions_record([MUHURAT, HOLIDAY])
    rows = MarketSession.objects.order_by("day")
    assert [row.id for row in rows] == ["NSE:2026-11-08", "NSE:2026-11-24"]
    assert rows[0].opens is not None
    assert rows[0].opens.astimezone(IST).isoformat() == "2026-11-08T18:00:00+05:30"
    assert (rows[1].opens, rows[1].closes, rows[1].description) == (None, None, "Guru Nanak Jayanti")


def test_recording_again_changes_only_what_differs() -> None:
    long = HOLIDAY._replace(description="x" * 200)
    sessions_record([MUHURAT, long])
    assert sessions_record([MUHURAT, long]) == 0
    longer = MUHURAT._replace(close_ms=ist(8, 19, 30))
    assert sessions_record([longer, long]) == 1
    assert calendar_read().hours("NSE_EQ", ist(8)) == longer
    assert MarketSession.objects.count() == 2


def test_what_another_process_records_is_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    before = calendar_read()
    MarketSession.objects.create(
        id="NSE:2026-11-24", exchange="NSE", day=datetime(2026, 11, 24, tzinfo=IST), description="Guru Nanak Jayanti"
    )
    assert calendar_read() is before, "a copy of its own"
    monkeypatch.setattr(calendar, "CACHE_SECONDS", 0.0)
    assert calendar_read().hours("NSE_EQ", ist(24)) == HOLIDAY
