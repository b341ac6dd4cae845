"""Ids, the transaction that passes keys, the lock with an end: on the real mongod."""

from __future__ import annotations

import threading
import time

import pytest
from pymongo.errors import BulkWriteError

from instruments import store
from instruments.domain.change import Change, Passing
from instruments.domain.instrument import fingerprint_of, identity_of
from instruments.models import Instrument, InstrumentVersion
from instruments.services import instruments_refresh
from tests.instruments.rows import DAY_1, DAY_2, option

pytestmark = pytest.mark.django_db


def test_blocks_of_ids_never_overlap() -> None:
    blocks: list[range] = []
    threads = [threading.Thread(target=lambda: blocks.extend(store.ids_reserve(7) for _ in range(20))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = [number for block in blocks for number in block]
    assert sorted(ids) == list(range(1, 6 * 20 * 7 + 1))


def test_a_lost_counter_never_gives_an_id_again() -> None:
    instruments_refresh(rows=[option(1), option(2, side="PE")], source="test", as_of=DAY_1)
    store.state_collection().delete_one({"_id": store.ID_COUNTER})
    assert store.ids_reserve(1)[0] == 3


def change(token: int, strike: float, instrument: int | None = None) -> Change:
    row = option(token, strike)
    return Change(identity_of(row), row, fingerprint_of(row), instrument)


def test_keys_pass_together_or_not_at_all() -> None:
    instruments_refresh(rows=[option(1, 100.0), option(2, 200.0)], source="test", as_of=DAY_1)
    before = list(Instrument.objects.order_by("id").values())

    with pytest.raises(BulkWriteError):  # the second taker wants a key whose holder does not leave: the index refuses it
        store.keys_pass([Passing([1], [change(1, 300.0), change(2, 400.0)])], DAY_2)
    assert list(Instrument.objects.order_by("id").values()) == before

    store.keys_pass([Passing([1], [change(1, 300.0)])], DAY_2)
    holders = Instrument.objects.filter(active=True).order_by("instrument_key").values_list("instrument_key", "strike_price")
    assert list(holders) == [("NSE_FO|1", 300.0), ("NSE_FO|2", 200.0)]


def test_what_is_inserted_beside_a_holder_is_left_out_and_counted() -> None:
    instruments_refresh(rows=[option(1, 100.0)], source="test", as_of=DAY_1)
    assert store.instruments_insert([change(1, 300.0), change(2, 400.0)], DAY_2) == 1


def test_a_state_and_its_version_are_written_together_or_not_at_all() -> None:
    instruments_refresh(rows=[option(1, 100.0), option(2, 200.0), option(3, 300.0)], source="test", as_of=DAY_1)
    before = list(Instrument.objects.order_by("id").values())
    with pytest.raises(BulkWriteError):  # the second wants a key that another holds
        store.instruments_update([change(4, 100.0, instrument=1), change(3, 200.0, instrument=2)], DAY_2)
    assert list(Instrument.objects.order_by("id").values()) == before
    assert not InstrumentVersion.objects.exists()

    store.instruments_update([change(4, 100.0, instrument=1), change(2, 200.0, instrument=2)], DAY_2)
    (kept,) = InstrumentVersion.objects.all()
    assert (kept.instrument, kept.instrument_key, kept.active_from, kept.active_to) == (1, "NSE_FO|1", DAY_1, DAY_2)
    assert str(kept) == "NIFTY 100 CE 17 NOV 26 until 2026-11-11"
    assert Instrument.objects.get(pk=1).active_from == DAY_2
    assert Instrument.objects.get(pk=2).active_from == DAY_1  # nothing but its hash was written


def test_only_one_holds_the_lock() -> None:
    with store.Lock("x", seconds=30, wait=0):
        with pytest.raises(store.LockHeld), store.Lock("x", seconds=30, wait=0.3):
            pytest.fail("two processes hold the lock")
        with store.Lock("y", seconds=30, wait=0):
            pass
    with store.Lock("x", seconds=30, wait=0):
        pass


def test_a_dead_holders_lock_ends_and_the_late_holder_is_told() -> None:
    first = store.Lock("x", seconds=0.5, wait=0)
    first.__enter__()
    began = time.monotonic()
    first.renew()
    with store.Lock("x", seconds=30, wait=60) as second:
        assert time.monotonic() - began > 0.4
        with pytest.raises(store.LockLost):
            first.renew()
        first.__exit__(None, None, None)
        second.renew()


def test_marks_are_for_ever() -> None:
    assert not store.is_marked("x")
    store.mark("x")
    store.mark("x")
    assert store.is_marked("x")
