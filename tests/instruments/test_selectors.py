"""Look-ups on the real mongod."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import override_settings
from msgspec.structs import replace

from instruments import selectors
from instruments.domain.instrument import InstrumentRow, ms_of
from instruments.models import Instrument, SubscriptionRule
from instruments.selectors import (
    UnknownInstrument,
    followed,
    instrument_ids,
    instrument_keys,
    instrument_resolve,
    market_now,
    underlying_expiries,
    underlying_is_known,
)
from instruments.services import instruments_refresh, spots_record
from marketdata import store
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, MONTHLY, NEXT_MONTHLY, NEXT_WEEKLY, WEEKLY, market, option, patience

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    cache.clear()


def load(rows: list[InstrumentRow], as_of: datetime = DAY_1) -> None:
    instruments_refresh(rows=rows, source="test", as_of=as_of, force=True)


def test_ids_and_keys_there_and_back() -> None:
    load(market())
    ids = instrument_ids(["NSE_INDEX|Nifty 50", "NSE_FO|1000", "NSE_FO|404", ""])
    assert set(ids) == {"NSE_INDEX|Nifty 50", "NSE_FO|1000"}
    assert instrument_keys([*ids.values(), -1]) == {number: key for key, number in ids.items()}
    assert instrument_ids([]) == {}


def test_two_thousand_keys_are_looked_up_in_the_index_alone() -> None:
    load([option(token, float(token)) for token in range(1, 2501)])
    keys = [f"NSE_FO|{token}" for token in range(1, 2001)]
    with profiled(Instrument._meta.db_table) as entries:
        assert len(instrument_ids(keys)) == 2000
    assert_by_index(entries, at_most=0)
    best = 1.0
    for _ in range(10):
        began = time.perf_counter()
        instrument_ids(keys)
        best = min(best, time.perf_counter() - began)
    assert best < 0.03 * patience()


@pytest.mark.parametrize("name", ["NSE_FO|404", "id:404", "id:", "id:x", "id:-1", "id:" + "9" * 40, "", "Nifty 50", "NSE_FO|1|2", "id:²"])
def test_a_name_that_nobody_has(name: str) -> None:
    load(market()[:3])
    with pytest.raises(UnknownInstrument) as caught:
        instrument_resolve(name)
    assert caught.value.code == "unknown_instrument"


def test_a_key_before_its_first_holder_means_nobody() -> None:
    load([option(7)])
    assert instrument_resolve("NSE_FO|7", as_of=DAY_1).strike_price == 25000.0
    with pytest.raises(UnknownInstrument, match="as of 2026-11-10 05:00 IST"):
        instrument_resolve("NSE_FO|7", as_of=DAY_1 - timedelta(hours=1))


def test_a_key_between_holders_means_nobody() -> None:
    load([option(7), option(8, side="PE")])
    load([option(8, side="PE")], DAY_2)
    assert instrument_resolve("NSE_FO|7", as_of=DAY_2 - timedelta(seconds=1)).strike_price == 25000.0
    with pytest.raises(UnknownInstrument):
        instrument_resolve("NSE_FO|7", as_of=DAY_2)


def test_expiries_with_their_words_and_what_is_listed() -> None:
    load(market())
    listed = underlying_expiries("NIFTY", DAY_1)
    assert [(each.expiry.date, each.expiry.kind, each.words, each.futures, each.strikes) for each in listed] == [
        (WEEKLY, "weekly", ["@w0"], 0, 21),
        (MONTHLY, "monthly", ["@w1", "@m0"], 1, 21),
        (NEXT_WEEKLY, "weekly", ["@w2"], 0, 21),
        (NEXT_MONTHLY, "monthly", ["@m1"], 1, 21),
    ]
    assert underlying_expiries("SENSEX", DAY_1) == []
    assert underlying_expiries("NIFTY", datetime(2027, 1, 1, tzinfo=UTC)) == []


def test_an_underlying_is_known_by_its_contracts_or_itself() -> None:
    assert underlying_is_known("ANYTHING")  # nothing is loaded yet
    load(market())
    assert underlying_is_known("BANKNIFTY")
    assert underlying_is_known("RELIANCE")
    assert not underlying_is_known("NIFTTY")


def test_what_is_followed_uses_the_prices_that_the_feed_recorded() -> None:
    load(market())
    SubscriptionRule.objects.create(name="money", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm0")
    SubscriptionRule.objects.create(name="off", what="index", underlying="", enabled=False, priority=1)
    spots_record(spots={"NSE_INDEX|Nifty 50": 24600.0}, at_ms=ms_of(DAY_1))
    now = followed(DAY_1)
    assert [(rule.row.name, rule.selection and rule.selection.at_the_money) for rule in now.rules] == [
        ("off", None),
        ("money", {WEEKLY: 24600.0}),
    ]
    assert now.ids == sorted(instrument_ids(now.universe.by_mode["full"]).values())
    assert len(now.ids) == 1 + 2  # the index, by whose price the money is found
    assert now.spots_at_ms == ms_of(DAY_1)
    assert followed(DAY_1) == now


@pytest.mark.parametrize(
    "wrong",
    [{"expiries": ["soon"]}, {"strikes": "some"}, {"what": "all"}, {"mode": "loud"}, {"expiries": None}, {"expiries": [5]}, {"strikes": 5}],
    ids=str,
)
def test_a_rule_that_was_stored_without_a_check_is_named_and_the_others_are_followed(wrong: dict[str, Any]) -> None:
    load(market())
    SubscriptionRule.objects.create(name="bad", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm0", priority=1)
    SubscriptionRule.objects.create(name="good", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm0", priority=2)
    store.collection(SubscriptionRule._meta.db_table).update_one({"name": "bad"}, {"$set": wrong})
    universe = selectors.universe_resolve(spots={"NSE_INDEX|Nifty 50": 24600.0}, at_ms=ms_of(DAY_1))
    assert {mode: len(keys) for mode, keys in universe.by_mode.items()} == {"full": 1 + 2}
    assert [(cut.rule, cut.mode, cut.keys) for cut in universe.cut] == [("bad", "", [])]
    assert universe.cut[0].reason.startswith("the rule is not valid: ")
    now = followed(DAY_1)
    assert [(rule.row.name, rule.selection and len(rule.selection.keys)) for rule in now.rules] == [("bad", None), ("good", 1 + 2)]
    assert now.universe.cut == universe.cut


def test_what_is_followed_is_said_of_all_connections_together() -> None:
    load(market())
    spots_record(spots={"NSE_INDEX|Nifty 50": 24600.0}, at_ms=ms_of(DAY_1), shard=0, shards=1)
    one = followed(DAY_1).limits["full"]
    cache.clear()
    spots_record(spots={"NSE_INDEX|Nifty 50": 24600.0}, at_ms=ms_of(DAY_1), shard=1, shards=3)
    assert followed(DAY_1).limits["full"] == 3 * one


def test_a_mode_without_room_does_not_shrink_the_others() -> None:
    load(market())
    SubscriptionRule.objects.create(name="index", what="index", underlying="NIFTY")
    SubscriptionRule.objects.create(name="deep", what="index", underlying="INDIA VIX", mode="full_d30")
    limits = {"ltpc": 5000, "option_greeks": 3000, "full": 2000, "full_d30": 0}
    with override_settings(BROKER_MODE_LIMITS=limits):
        assert followed(DAY_1).limits == limits
    cache.clear()
    mixed = {"ltpc": 2000, "option_greeks": 2000, "full": 1500, "full_d30": 50}
    with override_settings(BROKER_MODE_LIMITS={**limits, "full_d30": 50}, BROKER_MIXED_MODE_LIMITS=mixed):
        assert followed(DAY_1).limits == mixed


def test_each_connection_has_the_limits_of_what_is_followed_on_it() -> None:
    """One of three carries two modes, one carries one, one nothing: what each feed reports of itself, added up."""
    load(market())
    ids = instrument_ids([f"NSE_FO|{number}" for number in range(1000, 1060)])
    on = {connection: [key for key, number in ids.items() if number % 3 == connection] for connection in range(3)}
    SubscriptionRule.objects.create(name="whole", what="keys", keys=[*on[0][:2], *on[1][:2]], priority=1)
    SubscriptionRule.objects.create(name="prices", what="keys", keys=on[0][2:6], mode="ltpc")
    SubscriptionRule.objects.create(name="nothing", what="keys", keys=["NSE_FO|404"], mode="option_greeks")
    spots_record(spots={}, at_ms=ms_of(DAY_1), shard=2, shards=3)
    alone, mixed = {"ltpc": 9, "option_greeks": 9, "full": 3}, {"ltpc": 3, "option_greeks": 2, "full": 2}
    with override_settings(BROKER_MODE_LIMITS=alone, BROKER_MIXED_MODE_LIMITS=mixed):
        now = followed(DAY_1)
    assert now.limits == {mode: mixed[mode] + 2 * alone[mode] for mode in alone}
    assert now.universe.by_mode == {"ltpc": on[0][2:5], "full": [*on[0][:2], *on[1][:2]]}
    assert [(cut.rule, cut.keys) for cut in now.universe.cut if cut.mode == "ltpc"] == [("prices", on[0][5:6])]


def test_market_time_goes_on_from_what_was_recorded() -> None:
    assert abs(market_now() - datetime.now(UTC)) < timedelta(seconds=10)
    spots_record(spots={}, at_ms=ms_of(DAY_1))
    assert timedelta() <= market_now() - DAY_1 < timedelta(seconds=60)


def test_the_universe_is_read_by_indexes() -> None:
    load(market())
    for what, underlying in (("index", ""), ("index", "NIFTY"), ("equity", "RELIANCE"), ("futures", "NIFTY"), ("options", "BANKNIFTY")):
        SubscriptionRule.objects.create(name=f"{what} {underlying}", what=what, underlying=underlying, expiries=["@m0"])
    SubscriptionRule.objects.create(name="keys", what="keys", keys=["NSE_FO|1000"])
    with profiled(Instrument._meta.db_table) as entries:
        universe = selectors.universe_resolve(spots={}, at_ms=ms_of(DAY_1))
    assert_by_index(entries, at_most=len(market()))
    assert len(universe.by_mode["full"]) == 3 + 1 + 1 + 10 + 1


def test_a_change_of_the_lot_changes_nothing_that_is_followed() -> None:
    load([replace(row, lot_size=75) if row.underlying_symbol == "NIFTY" else row for row in market()])
    SubscriptionRule.objects.create(name="money", what="options", underlying="NIFTY", expiries=["@w0", "@m0"], strikes="atm2")
    before = selectors.universe_resolve(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=ms_of(DAY_1))
    load(market(), DAY_2)
    lots = set(Instrument.objects.filter(underlying_symbol="NIFTY", instrument_type="CE").values_list("lot_size", flat=True))
    assert lots == {65}
    assert selectors.universe_resolve(spots={"NSE_INDEX|Nifty 50": 25012.0}, at_ms=ms_of(DAY_1)) == before
    assert len(before.by_mode["full"]) == 1 + 2 * 2 * 5
