"""Which chains the rules follow, on the hand-made market."""

from __future__ import annotations

from datetime import datetime

import pytest
from django.core.cache import cache

from instruments.domain.instrument import IST, ms_of
from instruments.followed_chains import chains_followed
from instruments.models import SubscriptionRule
from instruments.services import instruments_refresh, spots_record
from tests.instruments.rows import DAY_1, INDEX_KEYS, MONTHLY, NEXT_WEEKLY, WEEKLY, market

pytestmark = pytest.mark.django_db

MONDAY = datetime(2026, 11, 16, 10, 0, tzinfo=IST)


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    cache.clear()


def load(**rules: list[str]) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    spots_record(spots={INDEX_KEYS["NIFTY"]: 25_010.0, INDEX_KEYS["BANKNIFTY"]: 50_110.0}, at_ms=ms_of(MONDAY))
    for underlying, expiries in rules.items():
        rule = SubscriptionRule(name=underlying, what="options", underlying=underlying, expiries=expiries, strikes="atm2", mode="full")
        rule.save()


def test_each_followed_chain_is_named_once_with_what_is_listed_and_followed() -> None:
    load(NIFTY=["@w0", "@m0"], BANKNIFTY=["@m0"])
    found = chains_followed(MONDAY)
    assert [(chain.underlying, chain.expiry, chain.kind, chain.words, chain.options, chain.followed) for chain in found] == [
        ("BANKNIFTY", MONTHLY, "monthly", ["@w0", "@m0"], 10, 8),
        ("NIFTY", WEEKLY, "weekly", ["@w0"], 42, 10),
        ("NIFTY", MONTHLY, "monthly", ["@w1", "@m0"], 42, 10),
    ]
    assert {chain.segment for chain in found} == {"NSE_FO"}
    assert found[1].ends_ms == ms_of(datetime(2026, 11, 17, 15, 40, tzinfo=IST))


def test_a_chain_is_gone_when_its_trading_has_ended() -> None:
    load(NIFTY=["@w0", "@w1"])
    end = datetime(2026, 11, 17, 15, 40, tzinfo=IST)
    spots_record(spots={INDEX_KEYS["NIFTY"]: 25_010.0}, at_ms=ms_of(end))
    assert [chain.expiry for chain in chains_followed(end)] == [MONTHLY, NEXT_WEEKLY]


def test_without_rules_or_options_nothing_is_followed() -> None:
    load()
    assert chains_followed(MONDAY) == []
    SubscriptionRule.objects.create(name="index", what="index", underlying="NIFTY", mode="full")
    cache.clear()
    assert chains_followed(MONDAY) == []
