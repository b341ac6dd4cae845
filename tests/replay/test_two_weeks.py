"""Two weeks of the market in a minute: what is followed rolls over two expiries and two holidays, one of which moves an expiry.

Exchange, feed and web are processes; the market's clock runs ahead of ours, and stands where we look. What must be subscribed when is
written here by hand, from the exchange's calendar; what was is read from the simulated exchange's own ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from pytest_django import DjangoDbBlocker

from tests.replay.two_weeks import (
    INDIA,
    Contract,
    Modes,
    Run,
    TwoWeeks,
    asked_for,
    at,
    india,
    limits_of,
    live_through,
    moment,
)

pytestmark = [pytest.mark.django_db, pytest.mark.slow, pytest.mark.timeout(600)]

NIFTY = "NSE_INDEX|Nifty 50"
MONTHLY_ONLY = ("NSE_INDEX|Nifty Bank", "NSE_INDEX|Nifty Fin Service", "NSE_INDEX|NIFTY MID SELECT")
ALWAYS = {NIFTY, *MONTHLY_ONLY, "NSE_INDEX|India VIX"}
SESSIONS = ("03-19", "03-20", "03-23", "03-24", "03-25", "03-27", "03-30", "04-01")
"""26 March (Shri Ram Navami) and 31 March (Shri Mahavir Jayanti) are holidays. Source: FACTS §6."""
HOLIDAYS = ("03-26", "03-31")
OPEN, CLOSE = "09:15", "15:30"
"""Of F&O before August 2026. Source: FACTS §6."""
FOLLOWED = {
    "03-19": (["03-24", "03-30"], "03-30"),
    "03-24": (["03-30", "04-07"], "03-30"),
    "03-30": (["04-07", "04-13", "04-28"], "04-28"),
}
"""From the first morning on, then from the close of each expiry day on: NIFTY's expiries by the default rules (two weeklies and the
monthly), and those of BANKNIFTY, FINNIFTY and MIDCPNIFTY (the monthly). The monthly of Tuesday 31 March is on Monday the 30th, the weekly
of 14 April, a holiday, on the 13th. Source: the exchange's bhavcopies (nifty_actual_expiry_calendar_2021_2026.json, S15 of FACTS)."""
ROLLS = ("03-24", "03-30")
BROUGHT = {"03-24": ["04-07"], "03-30": ["04-13", "04-28"]}
LIMIT = 900
"""Of keys, below the broker's own: fewer than the default rules would take on each of the days, so that it is felt."""
GRACE_MS = 10 * 60_000
"""Of the market's time after the close. The market stands still within it for as long as the feed needs."""
SPEED = 8000
LONGEST_SILENCE_MS = SPEED * 540 * 1.4 + 120_000
"""Between two updates of one key in a session: 540 ms times SPEED on average, 1.4 times that and a turn of the clock at the most."""


def live(weeks: TwoWeeks) -> None:
    """All days, from before the first open: a new master each morning, and a stop behind the close of each expiry day."""
    weeks.until(lambda: expiries(weeks) == FOLLOWED[SESSIONS[0]])
    for expiry in FOLLOWED[SESSIONS[0]][0]:
        weeks.follow(NIFTY, f"2026-{expiry}")
    for day in SESSIONS:
        if day != SESSIONS[0]:
            weeks.stand_at(moment(f"2026-{day}T08:56"))
            weeks.refresh(f"2026-{day}")
        if day in ROLLS:
            weeks.stand_at(moment(f"2026-{day}T{CLOSE}:01"))
            weeks.until(lambda: expiries(weeks) == FOLLOWED[day])  # noqa: B023 - called within this turn
    weeks.stand_at(moment(f"2026-{SESSIONS[-1]}T{CLOSE}:01"))


def expiries(weeks: TwoWeeks) -> tuple[list[str], str]:
    """The expiries that the exchange is asked for now, as in FOLLOWED."""
    found = asked_for(weeks.subscribed(), weeks.contracts)
    others = {tuple(found.get(underlying, [])) for underlying in MONTHLY_ONLY}
    return [expiry[5:] for expiry in found.get(NIFTY, [])], " ".join(expiry[5:] for other in others for expiry in other)


@pytest.fixture(scope="module")
def run(django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The two weeks, lived through."""
    limit = {"TRADINGOK_LIMIT_FULL": f"{LIMIT}"}
    options = ("--seed", "7", "--hours", "real", "--from", f"2026-{SESSIONS[0]}T09:00", "--speed", f"{SPEED}", "--stand", "0.1")
    with live_through(live, options, tmp_path_factory.mktemp("weeks"), django_db_blocker, limit) as done:
        yield done


def closes_of(day: str) -> int:
    return moment(f"2026-{day}T{CLOSE}")


def of_expiry(run: Run, day: str) -> set[str]:
    """Keys of all contracts of this expiry that the exchange ever listed."""
    return {key for key, contract in run.contracts.items() if contract.expiry == f"2026-{day}"}


def test_the_market_held_two_expiries_and_two_holidays(run: Run) -> None:
    assert run.began_ms == moment("2026-03-19T09:00") < moment("2026-04-01T15:30") <= run.ended_ms
    assert {f"{india(ms):%m-%d}" for times in run.sent.values() for ms in times} == set(SESSIONS)
    for day, after in pairwise(SESSIONS):
        listed = {before: min(run.masters[f"2026-{before}"]) for before in (day, after)}
        assert (listed[day] == f"2026-{day}") == (day in ROLLS), "listed on the morning of its last day"
        assert f"2026-{day}" not in run.masters[f"2026-{after}"], "and not on the next"
    assert {day: run.holidays[day] for day in HOLIDAYS} == dict.fromkeys(HOLIDAYS, "TRADING_HOLIDAY")


def test_limits_are_never_exceeded(run: Run) -> None:
    assert len(run.moments) > 8
    for each in run.moments:
        modes = Counter(each.modes.values())
        assert all(count <= min(limits_of(modes)[mode], LIMIT) for mode, count in modes.items()), each.asked
    asked = [row for row in run.rows if row.by_mode == {"full": LIMIT}]
    assert {f"{row.at.astimezone(INDIA):%m-%d}" for row in asked} == set(SESSIONS), "it was reached on each of the days"
    assert run.counts.keys() <= {"connections_opened_total", "requests_total"}, "nothing was unknown, over a limit or no request"
    assert run.counts["connections_opened_total"] == 1


@pytest.mark.parametrize("day", ROLLS)
def test_nothing_expired_is_followed(run: Run, day: str) -> None:
    dead = of_expiry(run, day)
    assert len(dead & at(run.moments, closes_of(day) - 1).keys()) > 100, "to the end it was"
    later = [each for each in run.moments if each.asked.market_ms > closes_of(day) + GRACE_MS]
    assert later
    for each in (run.moments[run.moments.index(later[0]) - 1], *later):
        assert dead.isdisjoint(each.modes), india(each.asked.market_ms)
    left = [each.asked for each in run.moments if each.asked.method == "unsub" and each.asked.market_ms >= closes_of(day)]
    assert [dead & set(asked.keys) for asked in left if not dead.isdisjoint(asked.keys)] == [
        dead & at(run.moments, closes_of(day) - 1).keys()
    ]
    print(f"\n{day}: {len(left[0].keys)} contracts left {(left[0].market_ms - closes_of(day)) / 1000:.0f} s of the market after the close")


def test_the_words_of_the_rules_mean_the_listed_expiries_all_the_time(run: Run) -> None:
    begins = [moment(f"2026-{SESSIONS[0]}T{OPEN}"), *(closes_of(day) + GRACE_MS for day in ROLLS)]
    ends = [*(closes_of(day) for day in ROLLS), run.ended_ms]
    for from_ms, to_ms, (ours, others) in zip(begins, ends, FOLLOWED.values(), strict=True):
        inside = [each.modes for each in run.moments if from_ms < each.asked.market_ms < to_ms]
        for modes in (at(run.moments, from_ms), *inside):
            found = asked_for(modes, run.contracts)
            assert found[NIFTY] == [f"2026-{expiry}" for expiry in ours]
            assert [found[underlying] for underlying in MONTHLY_ONLY] == [[f"2026-{others}"]] * 3
            assert modes.keys() >= ALWAYS
            futures = {run.contracts[key].expiry for key in modes if run.contracts[key].kind == "FUT"}
            assert futures == {f"2026-{others}"}


def test_what_stays_is_asked_for_once_and_has_no_hole(run: Run) -> None:
    first = at(run.moments, moment(f"2026-{SESSIONS[0]}T{OPEN}"))
    monthly = {key for key in first if run.contracts[key] == run.contracts[key]._replace(underlying=NIFTY, expiry="2026-03-30")}
    assert len(monthly) > 100
    for keys, sessions in ((ALWAYS, SESSIONS), (monthly, SESSIONS[:7])):
        until = closes_of(sessions[-1])
        touched = Counter(key for each in run.moments if each.asked.market_ms < until for key in each.asked.keys)
        assert {key: touched[key] for key in keys} == dict.fromkeys(keys, 1), "one sub, and nothing else"
        for key in keys:
            for day in sessions:
                opens, closes = moment(f"2026-{day}T{OPEN}"), closes_of(day)
                times = [opens, *(ms for ms in run.sent[key] if opens <= ms < closes), closes]
                assert max(after - before for before, after in pairwise(times)) < LONGEST_SILENCE_MS, (key, day)


@pytest.mark.parametrize(("roll", "first"), list(zip(ROLLS, ("03-25", "04-01"), strict=True)))
def test_what_a_roll_brings_ticks_from_the_next_session_on(run: Run, roll: str, first: str) -> None:
    before, after = at(run.moments, closes_of(roll) - 1), at(run.moments, closes_of(roll) + GRACE_MS)
    new = after.keys() - before.keys()
    known = {run.contracts[key].expiry for key in before}
    assert {run.contracts[key].expiry for key in new} - known == {f"2026-{expiry}" for expiry in BROUGHT[roll]}
    opens, closes = moment(f"2026-{first}T{OPEN}"), closes_of(first)
    left = {
        key for each in run.moments if closes_of(roll) < each.asked.market_ms < closes for key in each.asked.keys if key not in each.modes
    }
    stay = new - left
    assert len(stay) > 100
    assert [key for key in stay if not any(opens <= ms < closes for ms in run.sent.get(key, ()))] == []


def test_the_limit_moves_with_the_money(run: Run) -> None:
    """There is room for less than the rules want: what lies farthest from the money is left, and comes back."""
    moved = [row for row in run.rows if {"spot", "limit"} <= {*row.causes} and row.entered]
    assert len(moved) > len(SESSIONS)
    assert {why for row in moved for why in row.left.values()} >= {"limit"}
    wings = {key for row in moved for key, why in row.left.items() if why == "limit"}
    assert {run.contracts[key].kind for key in wings} == {"CE", "PE"}
    assert any(key in row.entered for row in moved for key in wings)


def test_the_log_says_exactly_what_the_exchange_was_asked(run: Run) -> None:
    moments = iter([each for each in run.moments if each.asked.method != "open"])
    modes: Modes = {}
    for row in run.rows:
        modes = {key: mode for key, mode in modes.items() if key not in row.left} | row.entered | row.moved
        asked: dict[str, set[str]] = {"sub": set(), "unsub": set(), "change_mode": set()}
        reached: Modes | None = None
        while reached != modes:
            each = next(moments)
            asked[each.asked.method] |= {*each.asked.keys}
            reached = each.modes
        assert asked == {"sub": {*row.entered}, "unsub": {*row.left}, "change_mode": {*row.moved}}, row
        assert asked["sub"].isdisjoint(asked["unsub"])
        assert row.by_mode == Counter(modes.values())
    assert [each.asked.method for each in moments] == ["close"]
    expired = [round(row.at.timestamp() * 1000) for row in run.rows if "expired" in row.left.values()]
    assert {f"{india(ms):%m-%d}" for ms in expired} == set(ROLLS)
    assert all(0 <= ms - closes_of(f"{india(ms):%m-%d}") <= GRACE_MS for ms in expired)
    for row in run.rows:
        why = {key: run.contracts[key].expiry for key, reason in row.left.items() if reason == "expired"}
        assert set(why.values()) <= {f"{india(row.at.timestamp() * 1000):%Y-%m-%d}"}


def test_a_client_of_the_channel_market_is_told_every_change(run: Run) -> None:
    told = [(push["at"], push["causes"], push["entered"], push["left"]) for push in run.told.pushes("universe")]
    assert told == [(round(row.at.timestamp() * 1000), row.causes, row.entered, row.left) for row in run.rows]
    assert len(told) > 5


def test_who_follows_an_expired_contract_is_told_what_takes_its_place(run: Run) -> None:
    keys = {contract: key for key, contract in run.contracts.items()}
    next_of = {"2026-03-24": "2026-03-30", "2026-03-30": "2026-04-07"}

    def successor(contract: Contract) -> str:
        return keys[contract._replace(expiry=next_of[contract.expiry])]

    told = {push["key"]: (push["status"], push["follows"]) for push in run.told.pushes("subscription") if push["status"] == "expired"}
    assert told == {key: ("expired", successor(contract)) for key, contract in run.held.items()}
    assert Counter(contract.expiry for contract in run.held.values()) == {"2026-03-24": 6, "2026-03-30": 6}


def test_no_gap_is_made_of_what_was_left_out(run: Run) -> None:
    assert run.gaps == []
    assert run.counters["frames_rejected_total"] == run.counters["reconnects_total"] == run.counters["ticks_unknown_total"] == 0
    assert run.counters["ticks_stored_total"] == run.counters["ticks_decoded_total"] == sum(map(len, run.sent.values()))
