"""Retention, snapshots of quotes, market status."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from instruments.store import changes_collection
from marketdata import live_state, services, store
from marketdata.models import ChainSnapshot, LatestQuote, MarketStatus
from marketdata.wire import QuoteEntry, entry_unpack

pytestmark = pytest.mark.django_db


def entry(instrument: int, broker_ms: int, seq: int = 1) -> QuoteEntry:
    return QuoteEntry(instrument, f"NSE_FO|{instrument}", seq, broker_ms, b'{"last_price":1.0', b',"volume":1', b"", False)


def ttl_seconds() -> int | None:
    options = store.ticks_collection().index_information().get(services.TTL_INDEX)
    return None if options is None else int(options["expireAfterSeconds"])


@pytest.fixture(autouse=True)
def _no_ttl_index() -> None:
    if ttl_seconds() is not None:
        store.ticks_collection().drop_index(services.TTL_INDEX)
    chains = store.collection(ChainSnapshot._meta.db_table)
    if services.CHAIN_TTL_INDEX in chains.index_information():
        chains.drop_index(services.CHAIN_TTL_INDEX)


# --- retention --------------------------------------------------------------------------------------------------------


def test_retention_makes_the_index_once_and_changes_it_when_the_setting_changes() -> None:
    with override_settings(TICK_RETENTION_DAYS=7):
        assert services.retention_apply() == "made"
        assert services.retention_apply() == "unchanged"
        assert ttl_seconds() == 7 * 86_400
    with override_settings(TICK_RETENTION_DAYS=3):
        assert services.retention_apply() == "changed"
        assert ttl_seconds() == 3 * 86_400


def test_chains_are_kept_as_long_as_their_own_setting_says_from_when_they_were_stored() -> None:
    with override_settings(CHAIN_RETENTION_DAYS=30):
        assert [services.chain_retention_apply() for _ in range(2)] == ["made", "unchanged"]
    assert services.chain_retention_apply(days=2) == "changed"
    index = store.collection(ChainSnapshot._meta.db_table).index_information()[services.CHAIN_TTL_INDEX]
    assert (index["key"], index["expireAfterSeconds"]) == ([("stored_at", 1)], 2 * 86_400)


def test_changes_of_what_is_followed_are_kept_as_long_as_their_own_setting_says() -> None:
    changes = changes_collection()
    made_by_migrate = changes.index_information()[services.CHANGE_TTL_INDEX]
    assert "expireAfterSeconds" not in made_by_migrate
    try:
        assert [services.change_retention_apply(days=90) for _ in range(2)] == ["changed", "unchanged"]
        index = changes.index_information()[services.CHANGE_TTL_INDEX]
        assert (index["key"], index["expireAfterSeconds"]) == ([("recorded_at", 1)], 90 * 86_400)
    finally:
        changes.drop_index(services.CHANGE_TTL_INDEX)
        changes.create_index("recorded_at", name=services.CHANGE_TTL_INDEX)


def test_retention_counts_from_receipt_so_that_a_replay_of_old_days_is_kept() -> None:
    services.retention_apply(days=7)
    assert store.ticks_collection().index_information()[services.TTL_INDEX]["key"] == [("r", 1)]


# --- latest quotes ----------------------------------------------------------------------------------------------------


async def _write(*entries: QuoteEntry) -> None:
    await live_state.aquotes_write(entries, epoch=5)
    await live_state.aclose()


@pytest.mark.usefixtures("valkey")
def test_quotes_outlive_redis_and_an_older_one_never_replaces_a_newer() -> None:
    write = async_to_sync(_write)
    write(entry(1, 1000), entry(2, 1000))
    assert services.latest_quotes_store() == 2
    assert services.latest_quotes_store() == 0
    write(entry(1, 2000, seq=2), entry(2, 500))
    assert services.latest_quotes_store() == 1
    kept = {row.pk: entry_unpack(bytes(row.entry)) for row in LatestQuote.objects.all()}
    assert kept == {1: (0, entry(1, 2000, seq=2)), 2: (0, entry(2, 1000))}


@pytest.mark.usefixtures("valkey")
def test_no_quotes_are_no_work() -> None:
    assert services.latest_quotes_store() == 0
    assert not LatestQuote.objects.exists()


# --- market status ----------------------------------------------------------------------------------------------------


def test_a_status_is_recorded_when_it_changes_and_never_from_the_past() -> None:
    assert services.market_status_record({"NSE_EQ": ("NORMAL_OPEN", 1_000_000), "NSE_FO": ("NORMAL_OPEN", 1_000_000)}) == 2
    assert services.market_status_record({"NSE_EQ": ("NORMAL_OPEN", 1_060_000)}) == 0
    assert services.market_status_record({"NSE_EQ": ("PRE_OPEN_END", 900_000)}) == 0
    assert services.market_status_record({"NSE_EQ": ("NORMAL_CLOSE", 2_000_000)}) == 1
    rows = MarketStatus.objects.filter(segment="NSE_EQ").order_by("since")
    assert [(row.status, store.time_ms(row.since)) for row in rows] == [("NORMAL_OPEN", 1_000_000), ("NORMAL_CLOSE", 2_000_000)]
