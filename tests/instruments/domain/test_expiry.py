"""Kinds of expiry and a trader's words for them, on made-up lists and on every real NIFTY expiry of 2021–2026."""

from __future__ import annotations

import gzip
import json
from calendar import monthcalendar
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars
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
from instruments.domain.instrument import IST, day_end, ist_date, ms_of
from tests.instruments.rows import MONTHLY, NEXT_MONTHLY, NEXT_WEEKLY, REAL_MASTER, WEEKLY, needs_real_master

CALENDAR = Path(__file__).resolve().parents[4] / "shared" / "upstox" / "data" / "nifty_actual_expiry_calendar_2021_2026.json"


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


class Real(NamedTuple):
    """One expiry that was. `scheduled`: the day that its rule names, holidays aside."""

    day: date
    kind: str
    scheduled: date
    ends: datetime


def real_calendar() -> list[Real]:
    rows = json.loads(CALENDAR.read_text())["rows"]
    return sorted(
        Real(
            date.fromisoformat(row["actual_expiry_date"]),
            row["expiry_type"],
            date.fromisoformat(row["original_scheduled_expiry"]),
            datetime.fromisoformat(row["actual_expiry_timestamp_ist"]),
        )
        for row in rows
    )


def listed_on(day: date, calendar: list[Real]) -> list[Real]:
    """What the exchange lists: five weeks and three months ahead."""
    ahead = [entry for entry in calendar if entry.day >= day]
    return sorted({*ahead[:5], *[entry for entry in ahead if entry.kind == "monthly"][:3]})


def named(word: str, expiries: list[Expiry]) -> date | None:
    found = resolve_expiry(word, expiries)
    return found and found.date


def day_at(days: list[date], number: int) -> date | None:
    return days[number] if number < len(days) else None


needs_calendar = pytest.mark.skipif(not CALENDAR.exists(), reason=f"the real expiry calendar is not at {CALENDAR}")


@pytest.mark.realdata
@needs_calendar
def test_all_296_real_nifty_expiries_are_named_right_on_every_day_of_their_lives() -> None:
    """Build what the exchange listed each day, and compare the words, in the morning and after the close, with what then happened."""
    calendar = real_calendar()
    assert len(calendar) == 296
    ends = {entry.day: ms_of(entry.ends) for entry in calendar}

    def alive(day: date, now_ms: int) -> list[Expiry]:
        flags = [(end_ms(entry.day), entry.kind == "weekly") for entry in listed_on(day, calendar)]
        return expiries_of(flags, now_ms=now_ms, segment="NSE_FO", end_of=lambda segment, of: ends[of])

    seen: Counter[date] = Counter()
    day = calendar[0].day - timedelta(days=3)
    while day <= calendar[-1].day:
        listed = listed_on(day, calendar)
        for now_ms in (ist_ms(day, 9, 15), ist_ms(day, 15, 30) - 1, ist_ms(day, 15, 30)):
            left = [entry for entry in listed if now_ms < ms_of(entry.ends)]
            days, months = [entry.day for entry in left], [entry.day for entry in left if entry.kind == "monthly"]
            weeks = days[: max((number for number, entry in enumerate(left) if entry.kind == "weekly"), default=0) + 1]
            expiries = alive(day, now_ms)
            assert [(expiry.date, expiry.kind) for expiry in expiries] == [(entry.day, entry.kind) for entry in left]
            for number in (0, 1):
                assert named(f"@w{number}", expiries) == day_at(weeks, number), (day, number)
                assert named(f"@m{number}", expiries) == day_at(months, number), (day, number)
            seen.update(days[:1])
        day += timedelta(days=1)
    assert set(seen) == {entry.day for entry in calendar}


@pytest.mark.realdata
@needs_calendar
def test_an_expiry_that_a_holiday_moved_is_named_by_its_new_day() -> None:
    """Sixteen were moved to a trading day before; on the day that the rule names, the next one is this week's already."""
    calendar = real_calendar()
    moved = [entry for entry in calendar if entry.day != entry.scheduled]
    assert len(moved) == 16
    assert {entry.kind for entry in moved} == {"weekly", "monthly"}
    for entry in moved:
        assert entry.day < entry.scheduled
        for day, meant in ((entry.day, entry.day), (entry.scheduled, calendar[calendar.index(entry) + 1].day)):
            listed = [(each.day, each.kind == "weekly") for each in listed_on(day, calendar)]
            assert named("@w0", living(ist_ms(day, 9, 15), listed)) == meant


@pytest.mark.realdata
@needs_calendar
def test_the_week_in_which_expiries_went_from_thursday_to_tuesday() -> None:
    """The last Thursday was 28 August 2025, the first Tuesday 2 September: five days later, not seven."""
    calendar = real_calendar()

    def words(day: date) -> dict[str, date | None]:
        expiries = living(ist_ms(day, 9, 15), [(each.day, each.kind == "weekly") for each in listed_on(day, calendar)])
        return {word: named(word, expiries) for word in ("@w0", "@w1", "@m0", "@m1")}

    assert words(date(2025, 8, 28)) == {
        "@w0": date(2025, 8, 28),
        "@w1": date(2025, 9, 2),
        "@m0": date(2025, 8, 28),
        "@m1": date(2025, 9, 30),
    }
    assert words(date(2025, 8, 29)) == {
        "@w0": date(2025, 9, 2),
        "@w1": date(2025, 9, 9),
        "@m0": date(2025, 9, 30),
        "@m1": date(2025, 10, 28),
    }


@pytest.mark.realdata
@needs_calendar
def test_weekdays_and_month_ends_would_have_been_wrong() -> None:
    """Why nothing is computed: holidays moved expiries to other weekdays, and April 2025 ended with a weekly."""
    kinds = {entry.day: entry.kind for entry in real_calendar()}
    assert len({f"{day:%A}" for day in kinds}) == 4
    assert (kinds[date(2025, 4, 24)], kinds[date(2025, 4, 30)]) == ("monthly", "weekly")


def real_master_expiries() -> dict[tuple[str, str], list[tuple[int, bool | None]]]:
    """(segment, underlying) → (expiry, flag) of each of its contracts in the real master, by polars from the file itself."""
    fields = ["segment", "underlying_symbol", "expiry", "weekly"]
    rows = json.loads(gzip.decompress(REAL_MASTER.read_bytes()))
    table = polars.DataFrame([[row.get(field) for field in fields] for row in rows], schema=fields, orient="row", infer_schema_length=None)
    found: dict[tuple[str, str], list[tuple[int, bool | None]]] = {}
    for segment, underlying, expiry, weekly in table.drop_nulls(["expiry", "underlying_symbol"]).iter_rows():
        found.setdefault((segment, underlying), []).append((expiry, weekly))
    return found


@pytest.mark.realdata
@needs_real_master
def test_the_kinds_of_every_underlying_of_the_real_master() -> None:
    """NIFTY alone has weeklies; three months ahead are monthly, what is further is quarterly, however many the underlying has."""
    now_ms = ist_ms(date(2026, 7, 7), 9, 15)
    kinds = {
        underlying: [(f"{expiry.date:%y%m%d}", str(expiry.kind)) for expiry in expiries_of(listed, now_ms=now_ms, segment=segment)]
        for (segment, underlying), listed in real_master_expiries().items()
        if segment == "NSE_FO"
    }
    assert len(kinds) == 215
    months = [("260728", "monthly"), ("260825", "monthly"), ("260929", "monthly")]
    quarters = [(day, "quarterly") for day in ("261229", "270330", "270629")]
    far = ("271228", "280627", "281226", "290626", "291224", "300625", "301231", "310624")
    weeks = [(day, "weekly") for day in ("260707", "260714", "260721", "260804")]
    assert kinds.pop("NIFTY") == sorted([*weeks, *months, *quarters, *((day, "quarterly") for day in far)])
    assert kinds.pop("BANKNIFTY") == months + quarters
    assert Counter(len(expiries) for expiries in kinds.values()) == {3: 210, 2: 1, 1: 2}
    assert all(expiries == months[: len(expiries)] for expiries in kinds.values())


@pytest.mark.realdata
@needs_real_master
def test_the_flag_is_false_in_the_months_slot_of_the_real_master() -> None:
    """Each day without the flag is the last Tuesday of its month, or the trading day before one that is a holiday: 25 December 2029."""
    days = {
        (ist_date(expiry_ms), weekly)
        for (segment, _), listed in real_master_expiries().items()
        if segment == "NSE_FO"
        for expiry_ms, weekly in listed
    }
    slots = {day for day, weekly in days if not weekly}
    assert not slots & {day for day, weekly in days if weekly}
    assert {day for day in slots if day != last_tuesday(day)} == {date(2029, 12, 24)}
    assert not {day for day, weekly in days if weekly and day == last_tuesday(day)}


def last_tuesday(day: date) -> date:
    return max(date(day.year, day.month, week[1]) for week in monthcalendar(day.year, day.month) if week[1])


@pytest.mark.realdata
@needs_real_master
def test_segments_that_trade_other_things_have_their_own_rhythm() -> None:
    """Currencies expire each Friday and at the month's end; commodities have no flag, so no weeklies."""
    master = real_master_expiries()
    now_ms = ist_ms(date(2026, 7, 7), 9, 15)
    dollar = expiries_of(master["NCD_FO", "USDINR"], now_ms=now_ms, segment="NCD_FO")
    assert [(f"{expiry.date:%m%d}", expiry.kind) for expiry in dollar[:5]] == [
        ("0710", "weekly"),
        ("0717", "weekly"),
        ("0724", "weekly"),
        ("0729", "monthly"),
        ("0731", "weekly"),
    ]
    commodities = [listed for (segment, _), listed in master.items() if segment == "NSE_COM"]
    assert len(commodities) > 10
    for listed in commodities:
        assert ExpiryKind.WEEKLY not in {expiry.kind for expiry in expiries_of(listed, now_ms=now_ms, segment="NSE_COM")}
