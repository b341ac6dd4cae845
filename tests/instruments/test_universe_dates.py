"""The default rules on days that are awkward, against tables written by hand as a person reading the exchange's files would pick.

Until June 2026 the listings are built from the real expiry calendar, as the exchange lists: five weeks, three months, and quarters
beyond. In July 2026 it is the real master.
"""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from pyvolr import bs

from instruments.domain.instrument import IST, day_end, ms_of
from instruments.domain.limits import Limits
from instruments.domain.universe import Contract, Rule, Universe, resolve
from instruments.models import SubscriptionRule
from instruments.selectors import rule_of, universe_resolve
from instruments.services import instruments_refresh, rules_default_create
from instruments.store import instruments_collection
from tests.instruments.rows import DAY_1, REAL_MASTER, index, needs_real_master, option

CALENDAR = REAL_MASTER.with_name("nifty_actual_expiry_calendar_2021_2026.json")
NIFTY = "NSE_INDEX|Nifty 50"
SPOTS = {NIFTY: 25_312.0, "NSE_INDEX|Nifty Bank": 57_230.0, "NSE_INDEX|Nifty Fin Service": 26_800.0, "NSE_INDEX|NIFTY MID SELECT": 13_310.0}
LIMITS = Limits({"ltpc": 5000, "option_greeks": 3000, "full": 2000}, {"ltpc": 2000, "option_greeks": 2000, "full": 1500})

ON_THE_CALENDAR = """
2024-12-26 15:29 | 2024-12-26 2025-01-02 | 2024-12-26 | monthly expiry day, a minute before the end of trading
2024-12-26 15:30 | 2025-01-02 2025-01-09 | 2025-01-30 | ended: lots are 75 in the weeks ahead, still 25 in January's monthly
2025-01-30 15:30 | 2025-02-06 2025-02-13 | 2025-02-27 | the last contract of the old lot has ended
2025-04-09 10:00 | 2025-04-09 2025-04-17 | 2025-04-24 | Wednesday: the 10th is a holiday
2025-04-09 15:30 | 2025-04-17 2025-04-24 | 2025-04-24 | ended a day early
2025-04-10 11:00 | 2025-04-17 2025-04-24 | 2025-04-24 | the holiday itself
2025-04-24 15:30 | 2025-04-30 2025-05-08 | 2025-05-29 | April's monthly has ended, April has not
2025-04-30 12:00 | 2025-04-30 2025-05-08 | 2025-05-29 | the last day of the month is a weekly's: 1 May is a holiday
2025-05-01 12:00 | 2025-05-08 2025-05-15 | 2025-05-29 | that holiday
2025-08-28 15:30 | 2025-09-02 2025-09-09 | 2025-09-30 | the last Thursday: Tuesdays from now on
2025-10-20 15:29 | 2025-10-20 2025-10-28 | 2025-10-28 | Monday, for Diwali's Tuesday
2025-10-20 15:31 | 2025-10-28 2025-11-04 | 2025-10-28 | next week's expiry is the month's
2025-10-21 13:00 | 2025-10-28 2025-11-04 | 2025-10-28 | Diwali
2025-12-30 15:30 | 2026-01-06 2026-01-13 | 2026-01-27 | a quarter, the year and lots of 75 end
2026-03-02 15:30 | 2026-03-10 2026-03-17 | 2026-03-30 | Holi's Tuesday was a Monday; the monthly's will be one, too
2026-03-30 09:00 | 2026-03-30 2026-04-07 | 2026-03-30 | Monday, the month's last trading day: the 31st is a holiday
2026-03-30 15:30 | 2026-04-07 2026-04-13 | 2026-04-28 | quarterly roll; June's quarterly is not the monthly
2026-03-31 10:00 | 2026-04-07 2026-04-13 | 2026-04-28 | the holiday
2026-04-14 10:00 | 2026-04-21 2026-04-28 | 2026-04-28 | a holiday whose weekly came the day before
2026-05-31 12:00 | 2026-06-02 2026-06-09 | 2026-06-30 | a Sunday at the end of a month
2026-06-30 15:29 | 2026-06-30 2026-07-07 | 2026-06-30 | quarterly expiry day
2026-06-30 15:30 | 2026-07-07 2026-07-14 | 2026-07-28 | rolled
"""
IN_THE_MASTER = """
2026-07-06 09:15 | 2026-07-07 2026-07-14 | 2026-07-28 | the day before an expiry
2026-07-07 15:29 | 2026-07-07 2026-07-14 | 2026-07-28 | expiry day
2026-07-07 15:30 | 2026-07-14 2026-07-21 | 2026-07-28 | ended
2026-07-08 09:15 | 2026-07-14 2026-07-21 | 2026-07-28 | the day after
2026-07-21 15:30 | 2026-07-28 2026-08-04 | 2026-07-28 | the month's own week: two expiries in all
2026-07-28 15:29 | 2026-07-28 2026-08-04 | 2026-07-28 | monthly expiry day
"""
"""Market time in India | NIFTY @w0 and @w1 | @m0 | why it is awkward."""

Line = tuple[datetime, list[date], date]


def lines(table: str) -> list[Line]:
    parsed = []
    for line in table.strip().splitlines():
        moment, weeks, month, _ = (cell.strip() for cell in line.split("|"))
        at = datetime.strptime(moment, "%Y-%m-%d %H:%M").replace(tzinfo=IST)
        parsed.append((at, [date.fromisoformat(day) for day in weeks.split()], date.fromisoformat(month)))
    return parsed


def expected(line: Line) -> dict[str, list[date]]:
    """Expiries by rule: options in the order of the rule's words, each once."""
    _, weeks, month = line
    return {"NIFTY options": list(dict.fromkeys([*weeks, month])), "NIFTY near future": [month]}


def default_rules() -> list[Rule]:
    """As a new copy makes them, when its master has weeklies of NIFTY only."""
    symbols = ("BANKNIFTY", "FINNIFTY", "MIDCPNIFTY")
    monthlies = [replace(option(10 + place, weekly=False), underlying_symbol=symbol) for place, symbol in enumerate(symbols)]
    instruments_refresh(rows=[index(), option(1), *monthlies], source="test", as_of=DAY_1)
    rules_default_create()
    return [rule_of(row) for row in SubscriptionRule.objects.all()]


def by_rule(universe: Universe) -> dict[str, list[date]]:
    return {selection.rule.name: selection.expiries for selection in universe.selections}


def listed(at: datetime) -> list[Contract]:
    """What the exchange listed of NIFTY at a moment, by its real expiries: three strikes of each, and the futures."""
    rows = json.loads(CALENDAR.read_text())["rows"]
    kinds = sorted((date.fromisoformat(row["actual_expiry_date"]), row["expiry_type"] == "weekly") for row in rows)
    ahead = [(day, weekly) for day, weekly in kinds if day >= at.date()]
    months = [day for day, weekly in ahead if not weekly]
    days = {day for day, _ in ahead[:5]} | set(months[:3]) | {day for day in months if day.month % 3 == 0}
    contracts = [Contract(NIFTY, "NSE_INDEX", "INDEX", "NIFTY", None, None, None, None, None)]
    for day, weekly in ahead:
        if day in days:
            future = Contract(f"NSE_FO|{day}FUT", "NSE_FO", "FUT", "NIFTY", NIFTY, "NIFTY", ms_of(day_end(day)), weekly, None)
            for strike in (24_950.0, 25_000.0, 25_050.0):
                for side in ("CE", "PE"):
                    contracts.append(future._replace(key=f"NSE_FO|{day}{strike}{side}", instrument_type=side, strike_price=strike))
            contracts += [future] if day in months[:3] else []
    return contracts


@pytest.mark.django_db
@pytest.mark.realdata
@pytest.mark.skipif(not CALENDAR.exists(), reason=f"the real expiry calendar is not at {CALENDAR}")
def test_the_default_rules_pick_what_a_person_would_on_awkward_days() -> None:
    rules = [rule for rule in default_rules() if rule.underlying == "NIFTY"]
    assert len(lines(ON_THE_CALENDAR)) >= 20
    for line in lines(ON_THE_CALENDAR):
        at_ms = ms_of(line[0])
        universe = resolve(listed(line[0]), {NIFTY: 25_010.0}, rules, LIMITS, now_ms=at_ms)
        found = by_rule(universe)
        assert {name: found[name] for name in expected(line)} == expected(line), line
        assert found["NIFTY wings"] == expected(line)["NIFTY options"]
        options = expected(line)["NIFTY options"]
        assert len(universe.by_mode["full"]) == 1 + 1 + 6 * len(options), line
        assert f"NSE_FO|{line[2]}FUT" in universe.by_mode["full"]
        assert universe.cut == []
        assert universe.next_end_ms == ms_of(datetime.combine(line[1][0], datetime.min.time().replace(hour=15, minute=30), IST)), line


@pytest.mark.django_db
@pytest.mark.realdata
@pytest.mark.skipif(not CALENDAR.exists(), reason=f"the real expiry calendar is not at {CALENDAR}")
def test_lots_that_change_from_expiry_to_expiry_and_on_a_living_contract_move_nothing() -> None:
    """Of what the rules pick when trading of 26 December 2024 has ended: lots of 75 in the weeks, of 25 in January's monthly."""
    lots = {date.fromisoformat(row["actual_expiry_date"]): row["contract_lot_size"] for row in json.loads(CALENDAR.read_text())["rows"]}
    days = [date(2025, 1, 2), date(2025, 1, 9), date(2025, 1, 16), date(2025, 1, 30)]
    at = datetime(2024, 12, 26, 15, 30, tzinfo=IST)
    rows = [option(token, day=day, weekly=day != days[-1], lot=lots[day]) for token, day in enumerate(days, 1)]
    instruments_refresh(rows=[index(), *rows], source="test", as_of=at)
    rules_default_create()
    before = universe_resolve(spots={NIFTY: 25_010.0}, at_ms=ms_of(at))
    followed = {
        found["_id"]: found["lot_size"] for found in instruments_collection().find({"instrument_key": {"$in": before.by_mode["full"]}})
    }
    assert sorted(lot for lot in followed.values() if lot) == [25, 75, 75]

    instruments_refresh(rows=[index(), *rows[:-1], replace(rows[-1], lot_size=75)], source="test", as_of=at.replace(hour=18))
    after = universe_resolve(spots={NIFTY: 25_010.0}, at_ms=ms_of(at))
    assert after.by_mode == before.by_mode
    now = {found["_id"]: found["lot_size"] for found in instruments_collection().find({"_id": {"$in": list(followed)}})}
    assert sorted(lot for lot in now.values() if lot) == [75, 75, 75]


@cache
def rows_of_the_file() -> list[dict[str, Any]]:
    """The exchange's file by plain JSON: nothing of ours."""
    found: list[dict[str, Any]] = json.loads(gzip.decompress(REAL_MASTER.read_bytes()))
    return found


@cache
def contracts_of_the_file() -> list[Contract]:
    """Every row of it."""
    names = (
        "instrument_key",
        "segment",
        "instrument_type",
        "trading_symbol",
        "underlying_key",
        "underlying_symbol",
        "expiry",
        "weekly",
        "strike_price",
    )
    return [Contract._make([*map(row.get, names), 0]) for row in rows_of_the_file()]


@cache
def chains_of_the_file() -> dict[tuple[str, date], dict[float, dict[str, str]]]:
    """(Underlying, expiry) → strike → side → key, as listed, strikes ascending."""
    found: dict[tuple[str, date], dict[float, dict[str, str]]] = {}
    options = [row for row in rows_of_the_file() if row["instrument_type"] in ("CE", "PE")]
    for row in sorted(options, key=lambda row: row["strike_price"]):
        day = datetime.fromtimestamp(row["expiry"] / 1000, UTC).date()  # 23:59:59 in India is the same day in UTC
        chain = found.setdefault((row["underlying_symbol"], day), {})
        chain.setdefault(row["strike_price"], {})[row["instrument_type"]] = row["instrument_key"]
    return found


def options_of(symbol: str, day: date) -> dict[float, dict[str, str]]:
    return chains_of_the_file()[symbol, day]


@pytest.mark.django_db
@pytest.mark.realdata
@needs_real_master
def test_the_default_rules_on_the_real_master() -> None:
    rules = default_rules()
    for line in lines(IN_THE_MASTER):
        universe = resolve(contracts_of_the_file(), SPOTS, rules, LIMITS, now_ms=ms_of(line[0]))
        found = by_rule(universe)
        assert {name: found[name] for name in expected(line)} == expected(line), line
        followed = universe.by_mode["full"]
        chains = {("NIFTY", day) for day in expected(line)["NIFTY options"]}
        for symbol in ("BANKNIFTY", "FINNIFTY", "MIDCPNIFTY"):
            assert found[f"{symbol} options"] == found[f"{symbol} wings"] == found[f"{symbol} near future"] == [line[2]]
            chains.add((symbol, line[2]))
        keys = {key for chain in chains for sides in options_of(*chain).values() for key in sides.values()}
        assert keys < set(followed)  # the whole chains
        others = set(followed) - keys
        rest = [contract.symbol for contract in contracts_of_the_file() if contract.key in others]
        futures = [f"{symbol} FUT {line[2]:%d %b %y}".upper() for symbol in ("BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "NIFTY")]
        assert sorted(rest) == sorted(["NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "INDIA VIX", *futures])
        assert 1000 < len(followed) == len(keys) + 9 <= 1500, "one connection is well filled, also where modes are mixed"
        assert (universe.cut, len(set(followed))) == ([], len(followed))
        assert universe.next_end_ms == ms_of(datetime.combine(line[1][0], datetime.min.time().replace(hour=15, minute=30), IST))


@pytest.mark.django_db
@pytest.mark.realdata
@needs_real_master
def test_a_smaller_limit_cuts_the_wings_from_the_outside() -> None:
    at = lines(IN_THE_MASTER)[0][0]
    rules = default_rules()
    near = resolve(contracts_of_the_file(), SPOTS, [rule for rule in rules if "wings" not in rule.name], LIMITS, now_ms=ms_of(at)).by_mode[
        "full"
    ]
    universe = resolve(contracts_of_the_file(), SPOTS, rules, Limits({"full": len(near) + 41}, {}), now_ms=ms_of(at))
    assert universe.by_mode["full"][: len(near)] == near
    extra = universe.by_mode["full"][len(near) :]
    assert len(extra) == 41
    chain = options_of("NIFTY", date(2026, 7, 7))
    wings = sorted((strike for strike in chain if chain[strike]["CE"] not in near), key=lambda strike: abs(strike - 25_300))
    assert set(extra[:20]) <= {key for strike in wings[:10] for key in chain[strike].values()}
    assert {cut.rule for cut in universe.cut} == {"NIFTY wings", "BANKNIFTY wings", "FINNIFTY wings", "MIDCPNIFTY wings"}
    assert {cut.reason for cut in universe.cut} == {f"the broker's limit of {len(near) + 41} keys in full mode is reached"}


def counted(strikes: list[float], spot: float, each_side: int) -> list[float]:
    centre = strikes.index(min(strikes, key=lambda strike: (abs(strike - spot), strike)))
    return strikes[max(centre - each_side, 0) : centre + each_side + 1]


def deltas(strikes: list[float], spot: float, least: float, days: int) -> list[float]:
    calls = np.atleast_1d(bs.delta("c", spot, strikes, days / 365, 0.0, 0.15))
    return [strike for strike, call in zip(strikes, calls, strict=True) if min(call, 1 - call) >= least]


@pytest.mark.realdata
@needs_real_master
@pytest.mark.parametrize(
    ("symbol", "spot", "day"),
    [
        ("NIFTY", 25_312.0, date(2026, 7, 7)),
        ("NIFTY", 25_325.0, date(2026, 7, 28)),  # half-way: the lower strike
        ("NIFTY", 22_020.0, date(2026, 12, 29)),  # a quarterly, whose steps are wide
        ("BANKNIFTY", 57_230.0, date(2026, 7, 28)),
        ("BANKNIFTY", 48_100.0, date(2026, 7, 28)),  # far from the money of that day, where strikes are irregular
        ("MIDCPNIFTY", 13_310.0, date(2026, 8, 25)),
        ("FINNIFTY", 26_810.0, date(2026, 9, 29)),
    ],
)
def test_the_strikes_are_those_that_the_file_lists(symbol: str, spot: float, day: date) -> None:
    chain = options_of(symbol, day)
    strikes = list(chain)
    at = datetime(2026, 7, 6, 10, 0, tzinfo=IST)
    wanted = {
        "atm10": counted(strikes, spot, 10),
        "atm0": counted(strikes, spot, 0),
        "pct2": [strike for strike in strikes if 0.98 * spot <= strike <= 1.02 * spot] or counted(strikes, spot, 0),
        "delta10": deltas(strikes, spot, 0.10, (day - at.date()).days + 1),
        "all": strikes,
    }
    underlying = next(row["underlying_key"] for row in rows_of_the_file() if row.get("underlying_symbol") == symbol)
    contracts = [contract for contract in contracts_of_the_file() if contract.underlying_symbol == symbol or contract.key == underlying]
    for word, expected_strikes in wanted.items():
        rule = Rule(word, "options", symbol, (day.isoformat(),), word, (), "full", 1)
        universe = resolve(contracts, {underlying: spot}, [rule], LIMITS, now_ms=ms_of(at))
        keys = {key for strike in expected_strikes for key in chain[strike].values()}
        assert expected_strikes, word
        assert set(universe.by_mode["full"]) == {underlying, *keys}, word
        assert universe.by_mode["full"][0] == underlying
