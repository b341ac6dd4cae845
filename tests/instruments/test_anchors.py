"""Anchors: what feeds' prices make of them, on the real mongod."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from django.core.cache import cache
from msgspec.structs import replace

from instruments import store
from instruments.anchors import strike_ladders
from instruments.domain.instrument import InstrumentRow, ms_of
from instruments.models import SubscriptionRule
from instruments.selectors import followed, universe_resolve
from instruments.services import instruments_refresh, spots_record
from tests.instruments.rows import DAY_1, DAY_2, WEEKLY, market, option

pytestmark = pytest.mark.django_db


NIFTY, BANK, ODD = "NSE_INDEX|Nifty 50", "NSE_INDEX|Nifty Bank", "NSE_INDEX|A.B $c"


def record(at_ms: int, shard: int = 0, shards: int = 1, **spots: float) -> store.RecordedSpots:
    return spots_record(
        spots={{"nifty": NIFTY, "bank": BANK, "odd": ODD}[name]: price for name, price in spots.items()},
        at_ms=at_ms,
        shard=shard,
        shards=shards,
    )


def refresh(rows: Sequence[InstrumentRow], as_of: datetime = DAY_1) -> None:
    instruments_refresh(rows=rows, source="test", as_of=as_of, force=True)


def test_ladders_are_the_listed_strikes_of_every_underlying_and_follow_the_master() -> None:
    assert strike_ladders() == {}
    refresh(market())
    nifty = [float(strike) for strike in range(24500, 25501, 50)]
    assert strike_ladders() == {NIFTY: nifty, BANK: [50000.0, 50100.0, 50200.0, 50500.0, 51000.0]}
    refresh([*market(), option(9000, 26000.0)], DAY_2)
    assert strike_ladders()[NIFTY] == [*nifty, 26000.0]


def test_spots_are_kept_whatever_their_keys_hold() -> None:
    odd = [replace(option(9000 + strike, float(strike)), underlying_key=ODD, underlying_symbol="ODD") for strike in (1, 2, 3)]
    refresh([*market(), *odd])
    assert store.spots_read()[:3] == ({}, None, None)
    assert record(7, odd=1.5)[:2] == ({ODD: 1.5}, 7)
    assert record(8, odd=2.5)[:2] == ({ODD: 2.5}, 8)
    assert record(9)[:2] == ({ODD: 2.5}, 9)  # the feed has started again and has no price yet
    assert store.spots_read()[:2] == ({ODD: 2.5}, 9)


def test_a_price_moves_its_anchor_by_three_quarters_of_a_strike_step() -> None:
    refresh(market())
    for at_ms, price, anchor in (
        (1, 25012.0, 25012.0),
        (2, 25049.0, 25012.0),
        (3, 24976.0, 25012.0),
        (4, 25049.5, 25049.5),
        (5, 25020.0, 25049.5),
    ):
        assert record(at_ms, nifty=price).spots == {NIFTY: anchor}, at_ms
    assert record(6, bank=50190.0).spots == {NIFTY: 25049.5, BANK: 50190.0}  # what is not told now is known still


def test_only_what_options_are_written_on_is_kept() -> None:
    refresh(market())
    told = spots_record(spots={NIFTY: 25012.0, "NSE_FO|1000": 80.0, "NSE_EQ|INE002A01018": 1400.0, "NSE_INDEX|India VIX": 12.0}, at_ms=1)
    assert told.spots == {NIFTY: 25012.0}
    refresh([row for row in market() if row.underlying_symbol != "NIFTY"], DAY_2)
    assert record(2, bank=50190.0).spots == {BANK: 50190.0}


def test_each_feed_gets_the_anchors_of_all() -> None:
    refresh(market())
    first = record(7, 0, 2, nifty=25000.0)
    assert (first.shards, first.priced) == (2, 1)
    assert spots_record(spots={"NSE_FO|1000": 80.0}, at_ms=7, shard=1, shards=2).priced == 2  # a feed may have no underlying at all
    second = record(8, 1, 2, bank=50100.0)
    assert second[:2] == ({NIFTY: 25000.0, BANK: 50100.0}, 8)
    assert second == record(8, 1, 2)._replace(written_at=second.written_at)
    assert record(9, 0, 2, nifty=25010.0).spots == second.spots
    alone = record(10, nifty=25100.0)  # one feed again; what the other knew is still the best there is
    assert alone.spots == {NIFTY: 25100.0, BANK: 50100.0}
    assert (alone.shards, alone.priced) == (1, 1)


def test_an_underlying_that_comes_to_another_feed_takes_its_anchor_along() -> None:
    refresh(market())
    record(1, nifty=25000.0, bank=50100.0)
    assert record(2, 1, 2, bank=50110.0).spots == {NIFTY: 25000.0, BANK: 50100.0}
    assert record(3, 1, 2, bank=50300.0).spots == {NIFTY: 25000.0, BANK: 50300.0}
    assert record(4, 0, 2, nifty=25001.0).spots == {NIFTY: 25000.0, BANK: 50300.0}  # what the first knew of it is older


def test_prices_recorded_before_there_were_shards_are_read() -> None:
    refresh(market())
    state = {"at_ms": 5, "written_at": datetime(2026, 1, 1, tzinfo=UTC), "spots": [[NIFTY, 24000.0]]}
    store.state_collection().insert_one({"_id": "spots", **state})
    assert store.spots_read()[:2] == ({NIFTY: 24000.0}, 5)
    assert record(7, nifty=25000.0)[:2] == ({NIFTY: 25000.0}, 7)


def test_every_feed_and_the_api_select_the_same_while_a_price_trembles_round_a_midpoint() -> None:
    refresh(market())
    SubscriptionRule.objects.create(name="money", what="options", underlying="NIFTY", expiries=["@w0"], strikes="atm1")
    seen = set()
    for turn, price in enumerate((25024.0, 25026.0) * 4):
        anchors = [record(ms_of(DAY_1) + turn, shard, 2, **({"nifty": price} if shard else {"bank": 50100.0})).spots for shard in (0, 1)]
        resolved = [universe_resolve(spots=each, at_ms=ms_of(DAY_1), shards=2).by_mode for each in anchors[turn == 0 :]]
        shown = followed_now()
        assert all(each == resolved[0] for each in [*resolved, shown])
        seen.add(tuple(resolved[0]["full"]))
    assert len(seen) == 1


def followed_now() -> dict[str, list[str]]:
    cache.clear()
    now = followed(DAY_1)
    assert {rule.selection.at_the_money[WEEKLY] for rule in now.rules if rule.selection} == {25000.0}
    return now.universe.by_mode
