"""Refreshes, placeholders and default rules on the real mongod."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connections
from django.test import override_settings

from instruments.domain.instrument import InstrumentRow
from instruments.models import Instrument, InstrumentVersion, MasterLoad, SubscriptionRule
from instruments.selectors import instrument_ids, instrument_resolve, universe_resolve
from instruments.services import (
    RefreshRefused,
    instrument_placeholder_create,
    instruments_refresh,
    rules_default_create,
)
from tests.instruments.rows import DAY_1, DAY_2, DAY_3, equity, index, market, option

pytestmark = pytest.mark.django_db


def refresh(rows: Sequence[InstrumentRow], as_of: datetime = DAY_1, *, force: bool = False) -> MasterLoad:
    return instruments_refresh(rows=rows, source="test", as_of=as_of, force=force)


def counts(load: MasterLoad) -> tuple[int, int, int, int]:
    return load.created, load.changed, load.retired, load.keys_passed


def state() -> list[tuple[object, ...]]:
    return list(
        Instrument.objects.order_by("id").values_list("id", "identity", "instrument_key", "active", "active_from", "active_to", "lot_size")
    )


def versions() -> list[tuple[object, ...]]:
    shown = ("instrument", "instrument_key", "lot_size", "active_from", "active_to")
    return list(InstrumentVersion.objects.order_by("active_to", "instrument").values_list(*shown))


def test_a_first_load_creates_every_instrument_and_the_orm_reads_them() -> None:
    rows = market()
    load = refresh(rows)

    assert counts(load) == (len(rows), 0, 0, 0)
    assert (load.rows, load.source, load.as_of) == (len(rows), "test", DAY_1)
    nifty = Instrument.objects.get(instrument_key="NSE_FO|1000")
    assert (nifty.strike_price, nifty.tick_size, nifty.lot_size, nifty.weekly) == (24500.0, 0.05, 65, True)
    assert nifty.expiry == datetime(2026, 11, 17, 18, 29, 59, tzinfo=UTC)
    assert (nifty.active, nifty.active_from, nifty.active_to, nifty.placeholder) == (True, DAY_1, None, False)


def test_ids_of_one_load_follow_the_chain() -> None:
    refresh(list(reversed(market())))
    chain = Instrument.objects.filter(underlying_symbol="NIFTY", instrument_type="CE").order_by("id").values_list("expiry", "strike_price")
    assert list(chain) == sorted(chain)


def test_a_second_load_of_the_same_changes_nothing() -> None:
    refresh(market())
    before = state()
    assert counts(refresh(market(), DAY_2)) == (0, 0, 0, 0)
    assert state() == before
    assert versions() == []


def test_only_what_differs_is_written() -> None:
    refresh([index(), option(1, lot=75), option(2, side="PE")])
    load = refresh([index(), option(1, lot=65), option(2, side="PE"), option(3, 25050.0)], DAY_2)
    assert counts(load) == (1, 1, 0, 0)
    changed = Instrument.objects.get(instrument_key="NSE_FO|1")
    assert (changed.lot_size, changed.active_from) == (65, DAY_2)
    assert versions() == [(changed.pk, "NSE_FO|1", 75, DAY_1, DAY_2)]


def test_a_recycled_key_gets_a_new_id_and_the_old_contract_keeps_its_own() -> None:
    refresh([index(), option(7, 24000.0)])
    old = instrument_ids(["NSE_FO|7"])["NSE_FO|7"]
    assert counts(refresh([index(), option(7, 26000.0)], DAY_2)) == (1, 0, 1, 1)

    new = instrument_ids(["NSE_FO|7"])["NSE_FO|7"]
    assert new != old
    retired = Instrument.objects.get(pk=old)
    assert (retired.strike_price, retired.active, retired.active_to) == (24000.0, False, DAY_2)
    assert instrument_resolve("NSE_FO|7").pk == new
    assert instrument_resolve("NSE_FO|7", as_of=DAY_1 + timedelta(hours=1)).pk == old
    assert instrument_resolve(f"id:{old}").strike_price == 24000.0


def test_a_contract_that_is_gone_is_retired_and_comes_back_under_its_old_id() -> None:
    refresh([index(), option(1), option(2, side="PE")])
    before = instrument_ids(["NSE_FO|2"])
    assert counts(refresh([index(), option(1)], DAY_2)) == (0, 0, 1, 0)
    assert instrument_ids(["NSE_FO|2"]) == {}

    assert counts(refresh([index(), option(1), option(2, side="PE")], DAY_3)) == (1, 0, 0, 0)
    assert instrument_ids(["NSE_FO|2"]) == before
    back = Instrument.objects.get(pk=before["NSE_FO|2"])
    assert (back.active, back.active_from, back.active_to) == (True, DAY_3, None)
    assert versions() == [(back.pk, "NSE_FO|2", 65, DAY_1, DAY_2)]


def test_a_contract_comes_back_under_a_key_that_another_holds() -> None:
    refresh([option(1, 100.0), option(2, 200.0)])
    first = instrument_ids(["NSE_FO|1"])["NSE_FO|1"]
    refresh([option(2, 200.0)], DAY_2)
    assert counts(refresh([option(2, 100.0)], DAY_3)) == (1, 0, 1, 1)
    assert instrument_ids(["NSE_FO|2"]) == {"NSE_FO|2": first}
    assert Instrument.objects.get(pk=first).active_from == DAY_3
    assert versions() == [(first, "NSE_FO|1", 65, DAY_1, DAY_2)]


def test_keys_that_go_round_in_a_ring() -> None:
    refresh([option(1, 100.0), option(2, 200.0), option(3, 300.0)])
    ids = instrument_ids(["NSE_FO|1", "NSE_FO|2", "NSE_FO|3"])
    assert counts(refresh([option(2, 100.0), option(3, 200.0), option(1, 300.0)], DAY_2)) == (0, 3, 0, 3)
    assert instrument_ids(ids) == {"NSE_FO|2": ids["NSE_FO|1"], "NSE_FO|3": ids["NSE_FO|2"], "NSE_FO|1": ids["NSE_FO|3"]}
    assert versions() == [(number, key, 65, DAY_1, DAY_2) for key, number in ids.items()]


def test_more_key_changes_than_fit_one_transaction() -> None:
    refresh([option(token, float(token)) for token in range(1, 1201)])
    load = refresh([option(token, float(token) + 5000) for token in range(1, 1201)], DAY_2)
    assert counts(load) == (1200, 0, 1200, 1200)
    assert Instrument.objects.filter(active=True).count() == 1200
    assert Instrument.objects.count() == 2400


@pytest.mark.parametrize("token", [1, 2], ids=["its lot changes", "its key changes"])
def test_a_refresh_waits_for_the_transaction_of_a_killed_one(token: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody ends a dead client's transaction but MongoDB itself, after a minute; here the test does, once the conflict has been met."""
    refresh([option(1, 100.0, lot=75), option(3, 200.0)])
    (held,) = Instrument.objects.filter(instrument_key="NSE_FO|1").values_list("id", flat=True)
    with connections["default"].get_database().client.start_session() as dead:  # type: ignore[attr-defined] # of django-mongodb-backend
        dead.start_transaction()
        connections["default"].get_database()[Instrument._meta.db_table].update_one(  # type: ignore[attr-defined]
            {"_id": held}, {"$set": {"lot_size": 1}}, session=dead
        )
        loads: list[MasterLoad] = []
        thread = threading.Thread(target=lambda: loads.append(refresh([option(token, 100.0, lot=65), option(3, 200.0)], DAY_2)))
        thread.start()
        deadline = time.monotonic() + 60
        while "trying again until the other ends" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        dead.abort_transaction()
        thread.join(60)
    assert [counts(load)[1] for load in loads] == [1]
    assert Instrument.objects.get(pk=held).lot_size == 65
    assert versions() == [(held, "NSE_FO|1", 75, DAY_1, DAY_2)]


def test_a_share_keeps_its_id_when_its_series_changes() -> None:
    refresh([equity(series="EQ")])
    before = instrument_ids(["NSE_EQ|INE002A01018"])
    assert counts(refresh([equity(series="BE")], DAY_2)) == (0, 1, 0, 0)
    assert instrument_ids(["NSE_EQ|INE002A01018"]) == before


@pytest.mark.parametrize(
    ("rows", "as_of", "reason"),
    [
        ([], DAY_2, "no rows"),
        (market()[:20], DAY_2, "more than half is missing.*--force"),
        (market(), DAY_1 - timedelta(hours=1), "older than the last load"),
        (market(), datetime.now(UTC) + timedelta(days=2), "in the future"),
    ],
)
def test_an_implausible_master_changes_nothing_and_says_why(rows: list[InstrumentRow], as_of: datetime, reason: str) -> None:
    refresh(market())
    before = state()
    with pytest.raises(RefreshRefused, match=reason):
        refresh(rows, as_of)
    assert state() == before
    assert MasterLoad.objects.count() == 1


def test_force_applies_a_master_of_less_than_half() -> None:
    refresh(market())
    load = refresh(market()[:20], DAY_2, force=True)
    assert (load.rows, load.retired) == (20, len(market()) - 20)


def test_progress_reaches_the_end() -> None:
    steps: list[tuple[str, int, int]] = []
    instruments_refresh(rows=market(), source="test", as_of=DAY_1, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("created", len(market()), len(market()))


def test_a_placeholder_is_made_once_for_a_key_that_nobody_holds() -> None:
    refresh([index()])
    first = instrument_placeholder_create(keys=["NSE_FO|9", "NSE_INDEX|Nifty 50", "no key", "NSE_FO|9"], at=DAY_1)
    again = instrument_placeholder_create(keys=["NSE_FO|9"], at=DAY_2)

    assert set(first) == {"NSE_FO|9", "NSE_INDEX|Nifty 50"}
    assert again["NSE_FO|9"] == first["NSE_FO|9"]
    made = Instrument.objects.get(pk=first["NSE_FO|9"])
    assert (made.placeholder, made.active, made.segment, made.exchange, made.instrument_type) == (True, True, "NSE_FO", "NSE", "UNKNOWN")
    assert not Instrument.objects.get(pk=first["NSE_INDEX|Nifty 50"]).placeholder


def test_a_placeholder_never_becomes_the_contract_that_takes_its_key() -> None:
    refresh([index()])
    held = instrument_placeholder_create(keys=["NSE_FO|9"], at=DAY_1)["NSE_FO|9"]
    assert counts(refresh([index()], DAY_2)) == (0, 0, 0, 0)
    assert instrument_ids(["NSE_FO|9"]) == {"NSE_FO|9": held}

    assert counts(refresh([index(), option(9)], DAY_3)) == (1, 0, 1, 1)
    assert instrument_ids(["NSE_FO|9"])["NSE_FO|9"] != held
    retired = Instrument.objects.get(pk=held)
    assert (retired.placeholder, retired.active, retired.active_to) == (True, False, DAY_3)


def test_many_threads_make_one_placeholder_a_key() -> None:
    keys = [f"NSE_FO|{number}" for number in range(50)]
    results: list[dict[str, int]] = []

    def create() -> None:
        results.append(instrument_placeholder_create(keys=keys, at=DAY_1))

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert all(result == results[0] for result in results)
    assert Instrument.objects.count() == len(keys)


def test_a_refresh_beside_a_feed_that_makes_placeholders_ends_with_the_master() -> None:
    rows = [option(token, float(token)) for token in range(1, 3001)]
    stop = threading.Event()

    def feed() -> None:
        number = 3000
        while not stop.is_set() and number > 0:
            instrument_placeholder_create(keys=[f"NSE_FO|{number}", f"NSE_FO|{number - 1}"], at=DAY_1)
            number -= 20

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        load = refresh(rows)
    finally:
        stop.set()
        thread.join(60)
    refresh(rows, DAY_2)
    assert load.rows == 3000
    active = Instrument.objects.filter(active=True)
    assert active.filter(placeholder=False).count() == 3000
    assert len(instrument_ids([row.instrument_key for row in rows])) == 3000
    assert active.filter(placeholder=True).count() == 0


def test_default_rules_are_made_once_and_never_again() -> None:
    refresh(market())
    assert rules_default_create() == 17
    assert rules_default_create() == 0
    rules = {rule.name: rule for rule in SubscriptionRule.objects.all()}
    for rule in rules.values():
        rule.full_clean()
    assert rules["NIFTY options"].expiries == rules["NIFTY wings"].expiries == ["@w0", "@w1", "@m0"]
    assert rules["BANKNIFTY options"].expiries == rules["BANKNIFTY wings"].expiries == ["@m0"]
    assert (rules["NIFTY options"].strikes, rules["NIFTY wings"].strikes) == ("atm40", "all")
    by_priority = [rule.name.split(" ", 1)[1] for rule in sorted(rules.values(), key=lambda rule: rule.priority)]
    assert by_priority == ["index"] * 4 + ["VIX index"] + ["near future"] * 4 + ["options"] * 4 + ["wings"] * 4
    SubscriptionRule.objects.all().delete()
    assert rules_default_create() == 0


@pytest.mark.parametrize(("strikes", "expected"), [(5, ["atm5"]), (40, ["atm40"]), (60, ["atm40", "atm60"]), (500, ["atm40", "all"])])
def test_default_strikes_are_at_most_those_of_the_settings(strikes: int, expected: list[str]) -> None:
    with override_settings(UNIVERSE_UNDERLYINGS=["NIFTY"], UNIVERSE_STRIKES=strikes):
        rules_default_create()
    found = SubscriptionRule.objects.filter(what="options").order_by("priority").values_list("strikes", flat=True)
    assert list(found) == expected


@override_settings(UNIVERSE_UNDERLYINGS=["NIFTY"], UNIVERSE_WEEKLIES=0, UNIVERSE_MONTHLIES=0)
def test_default_rules_follow_the_settings() -> None:
    rules_default_create()
    assert sorted(SubscriptionRule.objects.values_list("name", flat=True)) == ["INDIA VIX index", "NIFTY index", "NIFTY near future"]


def test_default_rules_resolve_on_the_loaded_market() -> None:
    refresh(market())
    rules_default_create()
    universe = universe_resolve(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=round(DAY_1.timestamp() * 1000))
    assert universe.by_mode["full"][:3] == ["NSE_INDEX|Nifty 50", "NSE_INDEX|Nifty Bank", "NSE_INDEX|India VIX"]
    assert len(universe.by_mode["full"]) == 3 + 2 + 21 * 2 * 2 + 5 * 2


@override_settings(BROKER_MODE_LIMITS={"ltpc": 5000, "option_greeks": 3000, "full": 2000, "full_d30": 0})
def test_mixed_modes_have_the_brokers_smaller_limits() -> None:
    refresh([index("INDIA VIX"), *(option(token, float(token)) for token in range(1, 1801))])
    SubscriptionRule.objects.create(name="all", what="options", underlying="NIFTY", expiries=["@w0"])
    at_ms = round(DAY_1.timestamp() * 1000)
    assert len(universe_resolve(spots={}, at_ms=at_ms).by_mode["full"]) == 1800
    SubscriptionRule.objects.create(name="vix", what="index", underlying="INDIA VIX", mode="ltpc")
    universe = universe_resolve(spots={}, at_ms=at_ms)
    assert {mode: len(keys) for mode, keys in universe.by_mode.items()} == {"full": 1800}, "a later rule takes nothing from an earlier one"
    assert [(cut.rule, len(cut.keys)) for cut in universe.cut] == [("vix", 1)]
    SubscriptionRule.objects.filter(name="vix").update(priority=1)
    assert {mode: len(keys) for mode, keys in universe_resolve(spots={}, at_ms=at_ms).by_mode.items()} == {"ltpc": 1, "full": 1500}


@override_settings(UNIVERSE_UNDERLYINGS=["NIFTY", "INDIA VIX"])
def test_default_rules_are_made_together_or_not_at_all() -> None:
    rules = connections["default"].database[SubscriptionRule._meta.db_table]  # type: ignore[attr-defined] # of django-mongodb-backend
    rules.create_index("what", unique=True, name="refuses_a_second_index")
    try:
        with pytest.raises(DatabaseError):
            rules_default_create()
        assert SubscriptionRule.objects.count() == 0
    finally:
        rules.drop_index("refuses_a_second_index")
    assert rules_default_create() > 2
    assert SubscriptionRule.objects.filter(name="INDIA VIX index").count() == 1, "though it is named twice"
