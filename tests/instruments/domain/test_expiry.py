"""Kinds of expiry and a trader's words for them, on made-up lists and on every real NIFTY expiry of 2021–2026."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from instruments.domain.expiry import (
    Expiry,
    ExpiryKind,
    check_expiry_word,
    expiries_of,
    expiry_words,
    is_alive,
    resolve_expiry,
)
from instruments.domain.instrument import IST, day_end, ms_of
from tests.instruments.rows import MONTHLY, NEXT_MONTHLY, NEXT_WEEKLY, WEEKLY

CALENDAR = Path(__file__).resolve().parents[4] / "shared" / "upstox" / "data" / "nifty_actual_expiry_calendar_2021_2026.json"
NOON = 12 * 3_600_000


def end_ms(day: date) -> int:
    return ms_of(day_end(day))


def ist_ms(day: date, hour: int, minute: int) -> int:
    return ms_of(datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST))


NIFTY = [
    (WEEKLY, True),
    (MONTHLY, False),
    (NEXT_WEEKLY, True),
    (NEXT_MONTHLY, False),
    (date(2027, 1, 25), False),
    (date(2027, 3, 30), False),
]


def living(now_ms: int, listed: list[tuple[date, bool]] = NIFTY) -> list[Expiry]:
    return expiries_of([(end_ms(day), weekly) for day, weekly in reversed(listed)], now_ms=now_ms, segment="NSE_FO")


def test_kinds_come_from_the_flag_and_the_distance() -> None:
    assert [(expiry.date, expiry.kind) for expiry in living(ist_ms(WEEKLY, 9, 0))] == [
        (WEEKLY, "weekly"),
        (MONTHLY, "monthly"),
        (NEXT_WEEKLY, "weekly"),
        (NEXT_MONTHLY, "monthly"),
        (date(2027, 1, 25), "monthly"),
        (date(2027, 3, 30), "quarterly"),
    ]


@pytest.mark.parametrize(
    ("segment", "day", "hour", "minute", "alive"),
    [
        ("NSE_FO", WEEKLY, 15, 39, True),
        ("NSE_FO", WEEKLY, 15, 40, False),
        ("NSE_FO", date(2026, 7, 28), 15, 29, True),
        ("NSE_FO", date(2026, 7, 28), 15, 30, False),
        ("NSE_COM", WEEKLY, 23, 29, True),
    ],
)
def test_an_expiry_dies_at_the_end_of_trading_not_at_midnight(segment: str, day: date, hour: int, minute: int, alive: bool) -> None:
    assert is_alive(segment, end_ms(day), ist_ms(day, hour, minute)) is alive


def test_the_words_move_on_when_an_expiry_dies() -> None:
    before, after = living(ist_ms(WEEKLY, 15, 39)), living(ist_ms(WEEKLY, 15, 40))
    assert [resolve_expiry("@w0", each) for each in (before, after)] == [before[0], after[0]]
    assert (before[0].date, after[0].date) == (WEEKLY, MONTHLY)


@pytest.mark.parametrize(
    ("word", "day"),
    [
        ("@w0", WEEKLY),
        ("@w1", MONTHLY),
        ("@w2", NEXT_WEEKLY),
        ("@w3", None),
        ("@m0", MONTHLY),
        ("@m1", NEXT_MONTHLY),
        ("@m3", date(2027, 3, 30)),
        ("@m4", None),
        (MONTHLY.isoformat(), MONTHLY),
        ("2026-11-24", None),
    ],
)
def test_a_word_means_what_a_trader_means(word: str, day: date | None) -> None:
    expiry = resolve_expiry(word, living(ist_ms(WEEKLY, 9, 0)))
    assert (expiry and expiry.date) == day


def test_without_weeklies_the_nearest_is_this_weeks_and_there_is_no_next() -> None:
    listed = living(0, [(MONTHLY, False), (NEXT_MONTHLY, False)])
    assert [resolve_expiry(word, listed) for word in ("@w0", "@w1", "@m1")] == [listed[0], None, listed[1]]
    assert [resolve_expiry(word, []) for word in ("@w0", "@m0")] == [None, None]


def test_a_segment_without_the_flag_has_no_weeklies() -> None:
    listed = expiries_of([(end_ms(WEEKLY), None), (end_ms(MONTHLY), None)], now_ms=0, segment="NSE_COM")
    assert [expiry.kind for expiry in listed] == ["monthly", "monthly"]


def test_one_contract_in_the_months_slot_decides_for_its_day() -> None:
    listed = expiries_of([(end_ms(MONTHLY), True), (end_ms(MONTHLY), False), (end_ms(MONTHLY), True)], now_ms=0, segment="NSE_FO")
    assert [expiry.kind for expiry in listed] == ["monthly"]


@pytest.mark.parametrize("word", ["", "@w", "@x0", "w0", "@w-1", "@w999", "2026-13-01", "20261124", "24-11-2026", "@w0 "])
def test_other_words_are_refused_with_the_ones_there_are(word: str) -> None:
    with pytest.raises(ValueError, match="@w0"):
        check_expiry_word(word)
    with pytest.raises(ValueError, match="@w0"):
        resolve_expiry(word, [])


def test_each_expiry_knows_its_words() -> None:
    assert expiry_words(living(ist_ms(WEEKLY, 9, 0))) == {
        WEEKLY: ["@w0"],
        MONTHLY: ["@w1", "@m0"],
        NEXT_WEEKLY: ["@w2"],
        NEXT_MONTHLY: ["@m1"],
        date(2027, 1, 25): ["@m2"],
        date(2027, 3, 30): ["@m3"],
    }


@pytest.mark.realdata
@pytest.mark.skipif(not CALENDAR.exists(), reason=f"the real expiry calendar is not at {CALENDAR}")
def test_all_296_real_nifty_expiries_are_named_right_on_every_day_of_their_lives() -> None:
    """The exchange lists five weeks and three months ahead: build what it listed each day, and compare with what then happened."""
    calendar = [(date.fromisoformat(row["actual_expiry_date"]), row["expiry_type"]) for row in json.loads(CALENDAR.read_text())["rows"]]
    calendar.sort()
    assert len(calendar) == 296
    named = set()
    day = calendar[0][0] - timedelta(days=3)
    while day <= calendar[-1][0]:
        ahead = [entry for entry in calendar if entry[0] >= day]
        months = [entry for entry in ahead if entry[1] == "monthly"][:3]
        listed = sorted({*ahead[:5], *months})
        expiries = living(ist_ms(day, 9, 15), [(each, kind == "weekly") for each, kind in listed])
        assert [(expiry.date, expiry.kind is ExpiryKind.WEEKLY) for expiry in expiries] == [
            (each, kind == "weekly") for each, kind in listed
        ]
        nearest, monthly = resolve_expiry("@w0", expiries), resolve_expiry("@m0", expiries)
        assert nearest is not None
        assert nearest.date == ahead[0][0]
        assert (monthly.date if monthly else None) == (months[0][0] if months else None)
        named.add(nearest.date)
        evening = living(ist_ms(day, 15, 40), [(each, kind == "weekly") for each, kind in listed])
        assert [expiry.date for expiry in evening] == [each for each, _ in listed if each != day]
        day += timedelta(days=1)
    assert named == {each for each, _ in calendar}


@pytest.mark.realdata
@pytest.mark.skipif(not CALENDAR.exists(), reason=f"the real expiry calendar is not at {CALENDAR}")
def test_weekdays_and_month_ends_would_have_been_wrong() -> None:
    """Why nothing is computed: holidays moved 26 expiries to another weekday, and April 2025 ended with a weekly."""
    calendar = {date.fromisoformat(row["actual_expiry_date"]): row for row in json.loads(CALENDAR.read_text())["rows"]}
    moved = [day for day, row in calendar.items() if row["expiry_rule_weekday"] != f"{day:%A}"]
    assert len(moved) > 10
    assert calendar[date(2025, 4, 24)]["expiry_type"] == "monthly"
    assert calendar[date(2025, 4, 30)]["expiry_type"] == "weekly"
    assert datetime(2025, 4, 30, tzinfo=UTC) > datetime(2025, 4, 24, tzinfo=UTC)
