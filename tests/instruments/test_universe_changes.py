"""What the universe is made from, and its changes, on the real mongod."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime

import pytest

from instruments.models import Instrument, SubscriptionRule, UniverseChange
from instruments.services import instruments_refresh
from instruments.universe_changes import (
    instruments_held,
    instruments_named,
    instruments_retired,
    universe_change_record,
    universe_sources,
)
from marketdata.calendar import sessions_record
from marketdata.domain.candle import day_start_ms
from marketdata.domain.session import Hours
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, DAY_3, MONTHLY, WEEKLY, market, option
from tests.zones import ist

pytestmark = pytest.mark.django_db

CALL, INDEX = "NSE_FO|1000", "NSE_INDEX|Nifty 50"


def test_a_load_and_a_rule_are_noticed_and_nothing_else() -> None:
    seen = [universe_sources()]
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    seen.append(universe_sources())
    rule = SubscriptionRule.objects.create(name="some", what="keys", keys=[CALL])
    seen.append(universe_sources())
    rule.mode = "ltpc"
    rule.save()
    seen.append(universe_sources())
    rule.delete()
    seen.append(universe_sources())
    instruments_refresh(rows=market(), source="test", as_of=DAY_2)
    seen.append(universe_sources())
    assert [each.master != before.master for before, each in itertools.pairwise(seen)] == [True, False, False, False, True]
    assert [each.rules != before.rules for before, each in itertools.pairwise(seen)] == [False, True, True, True, False]
    assert seen[4].rules == seen[0].rules
    assert universe_sources() == seen[-1]


def test_contracts_are_read_with_the_end_of_their_trading_by_the_calendar() -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    early = ist("2026-11-17 13:00:00")
    sessions_record([Hours("NFO", day_start_ms(early), ist("2026-11-17 09:15:00"), early, "a short day")])
    with profiled(Instrument._meta.db_table) as entries:
        held = instruments_held([CALL, INDEX, "NSE_FO|404"])
    assert_by_index(entries, at_most=2)
    assert set(held) == {CALL, INDEX}
    call = held[CALL]
    assert (call.segment, call.underlying, call.kind, call.strike_price) == ("NSE_FO", INDEX, "CE", 24500.0)
    assert (call.active, call.expiry_ms, call.ends_ms) == (True, ist("2026-11-17 23:59:59"), early)
    monthly = next(
        each for each in instruments_held([f"NSE_FO|{token}" for token in range(1000, 1100)]).values() if _day(each.ends_ms) == MONTHLY
    )
    assert monthly.ends_ms == ist("2026-11-23 15:40:00"), "the usual hours, where the calendar knows none"
    assert (held[INDEX].kind, held[INDEX].underlying, held[INDEX].ends_ms) == ("INDEX", None, None)
    assert instruments_named([call.id, -1]) == {call.id: call}


def _day(at_ms: int | None) -> date:
    return datetime.fromtimestamp((at_ms or 0) / 1000, UTC).date()


def test_who_held_a_key_last_is_found_once_nobody_holds_it() -> None:
    rows = [row for row in market() if row.instrument_key != CALL]
    instruments_refresh(rows=[*rows, option(1000, 24500.0, "CE", date(2026, 11, 10))], source="test", as_of=DAY_1)
    instruments_refresh(rows=[*rows, option(1000, 24500.0, "CE", WEEKLY)], source="test", as_of=DAY_2)
    assert instruments_held([CALL])[CALL].expiry_ms == ist("2026-11-17 23:59:59")
    instruments_refresh(rows=rows, source="test", as_of=DAY_3)
    assert instruments_held([CALL]) == {}
    last = instruments_retired([CALL, INDEX, "NSE_FO|404", "\x00"])
    assert set(last) == {CALL}
    assert (last[CALL].active, last[CALL].expiry_ms) == (False, ist("2026-11-17 23:59:59"))
    assert last[CALL].until_ms == round(DAY_3.timestamp() * 1000)


def test_a_change_is_stored_once_however_often_it_is_recorded() -> None:
    for _ in range(2):
        universe_change_record(
            identifier="6ff0c1d2a3b4c5d6e7f80912",
            shard=1,
            at_ms=ist("2026-11-17 15:40:00"),
            causes=["expiry", "demand"],
            entered={"NSE_FO|7": "full", "NSE_INDEX|A.B": "ltpc"},
            left={CALL: "expired"},
            moved={INDEX: "full"},
            by_mode={"full": 12},
        )
    (change,) = UniverseChange.objects.all()
    assert change.at == datetime(2026, 11, 17, 10, 10, tzinfo=UTC)
    assert (change.shard, change.causes, change.by_mode) == (1, ["expiry", "demand"], {"full": 12})
    assert (change.entered, change.left, change.moved) == (
        {"NSE_FO|7": "full", "NSE_INDEX|A.B": "ltpc"},
        {CALL: "expired"},
        {INDEX: "full"},
    )
    assert change.recorded_at is not None
