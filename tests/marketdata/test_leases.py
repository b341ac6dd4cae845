"""Locks, shards' leases and places of connections on the real valkey."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from marketdata import leases, live_state
from marketdata.leases import ALease, Lock, ShardLease, ShardsDisagree
from tests.marketdata.way_out import until

pytestmark = pytest.mark.usefixtures("valkey")


async def test_a_user_has_so_many_connections_and_no_more(valkey: Any, settings: Any) -> None:
    assert [await leases.aconnection_acquire("u", name, 2) for name in "abc"] == [True, True, False]
    assert await leases.aconnection_acquire("v", "c", 2)
    assert await leases.aconnection_acquire("u", "a", 2)  # renewing
    await leases.aconnection_release("u", "a")
    assert await leases.aconnection_acquire("u", "c", 2)
    valkey.zadd(f"{settings.NAMESPACE}.connections.u", {"b": 1})  # its process died and its lease has ended
    assert await leases.aconnection_acquire("u", "d", 2)
    await leases.aconnection_renew([("u", "c"), ("u", "lost"), ("v", "c")])
    assert valkey.zcard(f"{settings.NAMESPACE}.connections.u") == 3
    await live_state.aclose()


def test_a_lock_is_held_by_one_and_free_afterwards() -> None:
    with Lock("roll", 5) as first, Lock("roll", 5) as second, Lock("other", 5) as other:
        assert (first.acquired, second.acquired, other.acquired) == (True, False, True)
    with Lock("roll", 5) as third:
        assert third.acquired


def test_a_lock_is_renewed_while_it_is_held(valkey: Any, settings: Any) -> None:
    key = f"{settings.NAMESPACE}.lock.roll"
    with Lock("roll", 2) as lock:
        token, ends_ms = valkey.get(key), valkey.pexpiretime(key)
        until(lambda: valkey.pexpiretime(key) > ends_ms)
        assert lock.acquired
        assert valkey.get(key) == token
    assert valkey.get(key) is None


def test_a_lock_that_was_lost_says_so_and_does_not_release_anothers(valkey: Any, settings: Any) -> None:
    key = f"{settings.NAMESPACE}.lock.roll"
    with Lock("roll", 0.6) as lock:
        valkey.set(key, "another's")
        until(lambda: not lock.acquired)
    assert valkey.get(key) == b"another's"


def test_only_one_of_many_threads_gets_the_lock() -> None:
    winners: list[int] = []
    inside = threading.Barrier(8)

    def compete(number: int) -> None:
        with Lock("roll", 5) as lock:
            if lock.acquired:
                winners.append(number)
            inside.wait(10)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(winners) == 1


async def test_a_lease_is_held_renewed_and_released_by_its_owner_only() -> None:
    mine, other = ALease("shard.0", 5), ALease("shard.0", 5)
    assert await mine.acquire()
    assert not await other.acquire()
    assert await mine.renew()
    assert not await other.renew()
    await other.release()
    assert await mine.renew()
    await mine.release()
    assert await other.acquire()
    assert not await mine.renew()
    await live_state.aclose()


async def test_feeds_that_split_the_instruments_otherwise_are_refused_and_disturb_nobody() -> None:
    first, second = ShardLease(0, 2, 5, "a"), ShardLease(1, 2, 5, "b")
    assert await first.acquire()
    assert await second.acquire()
    for wrong in (ShardLease(2, 3, 5, "c"), ShardLease(0, 1, 5, "d")):
        with pytest.raises(ShardsDisagree, match=r"feed [12] of 2 runs"):
            await wrong.acquire()
    assert not await ShardLease(0, 2, 5, "e").acquire()
    assert await first.renew()
    assert await second.renew()
    await first.agree()
    await first.release()
    with pytest.raises(ShardsDisagree, match="feed 2 of 2 runs"):
        await ShardLease(0, 1, 5, "d").acquire()
    await second.release()
    assert await ShardLease(0, 1, 5, "d").acquire()
    await live_state.aclose()
