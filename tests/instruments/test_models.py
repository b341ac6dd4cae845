"""What the database itself refuses, and what a rule must say."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from pymongo.errors import DuplicateKeyError

from instruments.models import Instrument, MasterLoad, SubscriptionRule
from instruments.services import instruments_refresh
from instruments.store import instruments_collection, retired_ids
from tests.instruments.explain import assert_by_index, profiled
from tests.instruments.rows import DAY_1, DAY_2, market, option

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("copied", ["identity", "instrument_key"])
def test_an_identity_and_an_active_key_belong_to_one_instrument(copied: str) -> None:
    instruments_refresh(rows=[option(1)], source="test", as_of=DAY_1)
    document = instruments_collection().find_one({"instrument_key": "NSE_FO|1"})
    assert document is not None
    other = {**document, "_id": 999, "identity": "another", "instrument_key": "NSE_FO|2", copied: document[copied]}
    with pytest.raises(DuplicateKeyError):
        instruments_collection().insert_one(other)
    if copied == "instrument_key":
        instruments_collection().insert_one({**other, "active": False})
        assert Instrument.objects.filter(instrument_key="NSE_FO|1").count() == 2


def test_retired_identities_are_found_by_their_unique_index() -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    instruments_refresh(rows=market()[:100], source="test", as_of=DAY_2, force=True)
    gone = list(Instrument.objects.filter(active=False).values_list("identity", flat=True))
    assert len(gone) == len(market()) - 100
    with profiled(Instrument._meta.db_table) as entries:
        assert set(retired_ids([*gone, "unknown"])) == set(gone)
    assert_by_index(entries, at_most=len(gone))


def test_rows_are_named_for_people() -> None:
    load = instruments_refresh(rows=[option(1)], source="test", as_of=DAY_1)
    assert str(load) == "1 rows as of 2026-11-10 06:00 IST"
    assert str(Instrument.objects.get()) == "NIFTY 25000 CE 17 NOV 26"
    assert MasterLoad.objects.latest() == load
    assert str(SubscriptionRule(name="money")) == "money"


def test_a_good_rule_passes() -> None:
    SubscriptionRule(name="a", what="options", underlying="NIFTY", expiries=["@w0", "2026-11-23"], strikes="atm5").full_clean()
    SubscriptionRule(name="b", what="index").full_clean()
    SubscriptionRule(name="c", what="keys", keys=["NSE_INDEX|Nifty 50"]).full_clean()


def test_every_wrong_word_of_a_rule_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        SubscriptionRule(name="a", what="options", expiries=["@w0", "soon", "@x"], strikes="some", keys=["x"]).full_clean()
    assert {field: len(messages) for field, messages in caught.value.message_dict.items()} == {
        "underlying": 1,
        "expiries": 2,
        "strikes": 1,
        "keys": 1,
    }


@pytest.mark.django_db(transaction=True)
def test_rules_that_share_a_name_get_numbers_when_names_become_unique(request: pytest.FixtureRequest) -> None:
    before, after = ("instruments", "0003_instrumentversion_universechange"), ("instruments", "0004_rule_names_are_unique")
    last = MigrationExecutor(connection).loader.graph.leaf_nodes()
    MigrationExecutor(connection).migrate([before])
    request.addfinalizer(lambda: MigrationExecutor(connection).migrate(last))
    rules = connection.database[SubscriptionRule._meta.db_table]  # type: ignore[attr-defined] # of django-mongodb-backend
    names = ["money", "money", "money (2)", "other", "money", "x" * 60, "x" * 60, None, None, 5, 5]
    rules.insert_many([{"name": name, "what": "index", "underlying": "", "priority": place} for place, name in enumerate(names)])
    MigrationExecutor(connection).migrate([after])
    now = [rule["name"] for rule in rules.find().sort("priority")]
    assert now[:5] == ["money", "money (3)", "money (2)", "other", "money (4)"]
    assert now[5:] == ["x" * 60, f"{'x' * 56} (2)", None, "rule (2)", 5, "5 (2)"]
    with pytest.raises(DuplicateKeyError):
        rules.insert_one({"name": "money"})
